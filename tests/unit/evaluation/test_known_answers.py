"""Figures whose answers are known without the code: from publications, COCO's own rules, and textbook statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

from orchestrator.evaluation.coco.detections import join
from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.coco.matching import match
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.evaluation.compare.bootstrap import METHOD, compute_intervals
from orchestrator.evaluation.compare.compare import CompareOptions, compare_runs
from orchestrator.evaluation.compare.fairness import Cut, restrict
from orchestrator.predictions.predictions import Predictions
from orchestrator.reports.tables import make_caption, make_document
from tests.unit.evaluation.evaluate_samples import Iou, random_arrays, random_truth, reference, stored
from tests.unit.evaluation.test_weighted import predictions_of, truth_of

SQUARE = (10, 10, 30, 30)
FASHIONFAIL = [0, 1, *range(3, 12), 13, 14, 15, 17, 18, *range(21, 27)]
"""The 22 categories that FashionFail annotates, of Fashionpedia's 46 (arXiv 2404.08582)."""


def test_the_weighted_categories_are_fashionfails(tmp_path: Path) -> None:
    """Each of the 46 categories is annotated in one image, so each that counts weighs alike."""
    everything = [(category % 5, category, SQUARE) for category in range(46)]
    result = evaluate(*stored(tmp_path, predictions_of([(0, 0, SQUARE)], 5), truth_of(everything, 5)))
    weights = {one.id: one.weight for one in result.per_category if one.weight is not None}
    assert sorted(weights) == FASHIONFAIL
    assert list(weights.values()) == pytest.approx([1 / 22] * 22)
    assert result.weighted.categories == 22


class Share:
    """As a figure, the share of the resampled images that are among the first 50; its precision in all categories."""

    def __call__(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full((len(THRESHOLDS), 1), times[:50].sum() / times.sum())


class Nought:
    def __call__(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.zeros((len(THRESHOLDS), 1))


def test_intervals_hold_95_percent() -> None:
    """Of 100 draws with a chance of 1/2, 40 to 60 are the bounds of 95%; 42 to 58 would be those of 90%."""
    runs = cast(Any, [Nought(), Share()])
    (intervals,) = compute_intervals(runs, 100, np.ones(1), 4000, seed=1)
    for interval in intervals.values():
        assert interval.difference == 0.5
        assert interval.low == pytest.approx(0.40, abs=0.0101)
        assert interval.high == pytest.approx(0.60, abs=0.0101)


def test_intervals_of_real_runs_are_those_of_draws_that_can_be_counted(tmp_path: Path) -> None:
    """One run finds all 100 instances, the other those of 50 images: its AP in a resample is the share of such images.

    Of 100 draws with a chance of 1/2, 40 to 60 are the bounds of 95%. Precision is averaged at 101 recalls, so that a
    share of n/100 gives (n + 1)/101. Differences are paired: unpaired ones of equal runs would not all be 0.
    """
    images = 100
    everything = [(image, 0, SQUARE) for image in range(images)]
    predictions, annotations = stored(tmp_path, predictions_of(everything, images), truth_of(everything, images))
    half, _ = stored(tmp_path, predictions_of(everything[:50], images), truth_of(everything, images), "half")
    again, _ = stored(tmp_path, predictions_of(everything[:50], images), truth_of(everything, images), "again")
    assert predictions.path is not None
    assert half.path is not None
    assert again.path is not None
    result = compare_runs([predictions.path, half.path], annotations, CompareOptions(resamples=4000, seed=1))
    interval = result.intervals[0]["ap"]
    assert interval.difference == pytest.approx(51 / 101 - 1, abs=1e-9)
    assert interval.low == pytest.approx(41 / 101 - 1, abs=0.0101)
    assert interval.high == pytest.approx(61 / 101 - 1, abs=0.0101)
    assert interval.resamples == 4000
    assert make_document(result)["resampling"] == {
        "method": METHOD, "images": 100, "resamples": 4000, "seed": 1, "confidence": 0.95,
        "differences_to": result.runs[0].label,
    }  # fmt: skip
    same = compare_runs([half.path, again.path], annotations, CompareOptions(resamples=100)).intervals[0]["ap"]
    assert (same.difference, same.low, same.high) == (0, 0, 0)


def test_resamples_without_annotations_are_counted_apart(tmp_path: Path) -> None:
    """One of two images is annotated: a quarter of the resamples draws the other one alone."""
    truth_document = truth_of([(0, 0, SQUARE)], 2)
    paths = []
    for name in ("one", "two"):
        predictions, annotations = stored(tmp_path, predictions_of([(0, 0, SQUARE)], 2), truth_document, name)
        assert predictions.path is not None
        paths.append(predictions.path)
    result = compare_runs(paths, annotations, CompareOptions(resamples=400))
    assert result.intervals[0]["ap"].resamples == pytest.approx(300, abs=35)
    (line,) = (line for line in make_caption(result) if "paired" in line)
    assert f"; {400 - result.intervals[0]['ap'].resamples} resamples without annotations are not counted" in line


@pytest.mark.parametrize("annotated", [20, 25, 40, 50, 75, 100, 180, 200])
def test_a_recall_is_reached_by_cocos_own_comparison(tmp_path: Path, annotated: int) -> None:
    """Of an image found and one not found, repeated at will: recalls are quotients, rounded as floats are."""
    truth_document = truth_of([(0, 0, SQUARE), (1, 0, SQUARE)], 2)
    predictions, annotations = stored(tmp_path, predictions_of([(0, 0, SQUARE)], 2), truth_document)
    truth = read_truth(annotations, "bbox").keep_categories([0])
    resampled = ResampledPrecision(truth, match(truth, join(predictions, truth).detections, "bbox", THRESHOLDS))
    for found in range(1, annotated + 1):
        recall = np.arange(1, found + 1) / annotated
        expected = (np.searchsorted(recall, Params("bbox").recThrs, side="left") < found).mean()
        ours = resampled(np.array([found, annotated - found]))
        assert ours == pytest.approx(np.full((len(THRESHOLDS), 1), expected), abs=1e-9), found


@pytest.mark.parametrize("iou", ["bbox", "segm"])
def test_of_equal_overlaps_the_last_annotation_is_taken(tmp_path: Path, iou: Iou) -> None:
    """As pycocotools does: two annotations of the same box, and a third elsewhere."""
    sample = truth_of([(0, 0, SQUARE), (0, 0, SQUARE), (0, 0, (50, 50, 90, 90))], 1)
    for annotation in sample["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    predictions, annotations = stored(tmp_path, predictions_of([(0, 0, SQUARE)], 1), sample)
    (expected,) = (one for one in reference(predictions, annotations, iou).evalImgs if one and one["aRng"] == [0, 1e10])
    assert expected["dtMatches"].astype(int).tolist() == [[2]] * len(THRESHOLDS)
    truth = read_truth(annotations, iou)
    matches = match(truth, join(predictions, truth).detections, iou, THRESHOLDS)
    assert matches.partner.tolist() == [[1]] * len(THRESHOLDS)


@pytest.mark.parametrize("floor", [0.7, 0.1, 0.05, 0.5])
def test_alignment_keeps_what_scores_the_floor_as_the_runner_does(floor: float) -> None:
    """Scores are float32: 0.7 is smaller there than as a float64."""
    arrays = random_arrays(random_truth(7), 1)
    below, above = np.nextafter(np.float32(floor), np.array([0, 1], np.float32))
    first, second = int(arrays["offsets"][0]), int(arrays["offsets"][1])
    assert second - first > 3
    arrays["scores"] = np.zeros_like(arrays["scores"])
    arrays["scores"][first : first + 3] = [above, np.float32(floor), below]
    assert restrict(Predictions(arrays), Cut(floor=floor)).scores.tolist() == [above, np.float32(floor)]
