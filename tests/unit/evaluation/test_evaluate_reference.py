"""Every figure equals pycocotools' own, by either engine, and our matching is its matching."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from orchestrator.evaluation.coco.detections import join
from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.evaluate import CountLevel, evaluate
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.coco.matching import match
from tests.unit.evaluation.evaluate_samples import Iou, random_arrays, random_truth, reference, stored

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100",
           "ar_small", "ar_medium", "ar_large")  # fmt: skip


@pytest.mark.parametrize("iou", ["segm", "bbox"])
@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("seed", range(6))
def test_all_figures_equal_pycocotools(tmp_path: Path, iou: Iou, engine: str, seed: int) -> None:
    truth = random_truth(seed)
    predictions, annotations = stored(tmp_path, random_arrays(truth, seed + 100), truth)
    expected = reference(predictions, annotations, iou)
    found = evaluate(predictions, annotations, iou, engine=engine)
    assert found.engine == engine
    assert found.notes == ()
    for name, wanted in zip(FIGURES, expected.stats, strict=True):
        assert asdict(found)[name] == pytest.approx(wanted, abs=1e-9), name
    assert 0.1 < expected.stats[0] < 0.9
    precision = expected.eval["precision"]
    for place, category in enumerate(found.per_category):
        part = precision[:, :, place, 0, -1]
        wanted = part[part > -1].mean() if (part > -1).any() else None
        assert category.ap == (None if wanted is None else pytest.approx(wanted, abs=1e-9))
    assert [category.ap is None for category in found.per_category] == [False, False, False, True]


@pytest.mark.parametrize("iou", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(6))
def test_matching_is_that_of_pycocotools(tmp_path: Path, iou: Iou, seed: int) -> None:
    sample = random_truth(seed)
    predictions, annotations = stored(tmp_path, random_arrays(sample, seed + 100), sample)
    expected = {
        (one["image_id"], one["category_id"]): one
        for one in reference(predictions, annotations, iou).evalImgs
        if one is not None and one["aRng"] == [0, 1e10]
    }
    truth = read_truth(annotations, iou)
    matches = match(truth, join(predictions, truth).detections, iou, THRESHOLDS)
    ids, image_ids = ([one["id"] for one in sample[name]] for name in ("annotations", "images"))
    seen = 0
    for (image_id, category), one in expected.items():
        ours = (matches.image == sorted(image_ids).index(image_id)) & (matches.category == category)
        assert matches.scores[ours].tolist() == one["dtScores"]
        partner = np.where(matches.partner[:, ours] < 0, 0, np.array(ids)[matches.partner[:, ours]])
        assert np.array_equal(partner, one["dtMatches"])
        assert np.array_equal(matches.ignored[:, ours], one["dtIgnore"])
        seen += int(ours.sum())
    assert seen == len(matches.index) > 100


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_counts_of_the_curves_are_those_of_the_matching(tmp_path: Path, iou: Iou) -> None:
    sample = random_truth(4)
    for annotation in sample["annotations"]:
        annotation["iscrowd"] = 0
    predictions, annotations = stored(tmp_path, random_arrays(sample, 5), sample)
    quick = evaluate(predictions, annotations, iou, counts_at=CountLevel(0.75))
    matched = evaluate(predictions, annotations, iou, counts_at=CountLevel(0.75, 1e-9))
    assert [one.counts for one in quick.per_category] == [one.counts for one in matched.per_category]
    assert quick.counts.tp > 10


@pytest.mark.parametrize("score", [0.0, 0.4])
def test_counts_are_those_of_the_matching(tmp_path: Path, score: float) -> None:
    sample = random_truth(3)
    predictions, annotations = stored(tmp_path, random_arrays(sample, 5), sample)
    expected = reference(predictions, annotations, "bbox").evalImgs
    found = evaluate(predictions, annotations, "bbox", counts_at=CountLevel(0.75, score))
    tp = fp = 0
    for one in expected:
        if one is not None and one["aRng"] == [0, 1e10]:
            kept = (np.array(one["dtScores"]) >= score) & ~one["dtIgnore"][5]
            tp += int((kept & (one["dtMatches"][5] > 0)).sum())
            fp += int((kept & (one["dtMatches"][5] == 0)).sum())
    wanted = sum(1 - one["iscrowd"] for one in sample["annotations"])
    assert (found.counts.tp, found.counts.fp, found.counts.fn) == (tp, fp, wanted - tp)
    assert (found.counts_iou, found.counts_score) == (0.75, score)
    assert sum(one.counts.fp for one in found.per_category) == fp > 10
