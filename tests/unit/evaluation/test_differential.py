"""Thousands of small random data sets: all figures, matches and resampled averages are those of pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from pycocotools.cocoeval import COCOeval

from orchestrator.evaluation.coco import engines
from orchestrator.evaluation.coco.detections import join
from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.coco.matching import match
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.predictions.predictions import Predictions
from tests.hostile.fuzzing import fuzzed
from tests.unit.evaluation.small_sets import KNOBS, Iou, Knobs, evaluate_with_pycocotools, make_set, to_results
from tests.unit.evaluation.test_evaluate_reference import FIGURES

EXAMPLES = 1000  # of boxes, and of masks


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("differential") / "truth.json"


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_everything_equals_pycocotools(path: Path, iou: Iou, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "IMAGES_AT_A_TIME", 2)

    @fuzzed(EXAMPLES)
    @given(KNOBS)
    def compare(knobs: Knobs) -> None:
        dataset, predictions = make_set(knobs)
        path.write_text(json.dumps(dataset))
        expected = evaluate_with_pycocotools(dataset, to_results(dataset, predictions), iou)
        for engine in ("hotcoco", "pycocotools"):
            check_figures(predictions, path, iou, engine, expected)
        check_matches(predictions, path, iou, dataset, expected)

    compare()


def check_figures(predictions: Predictions, path: Path, iou: Iou, engine: str, expected: COCOeval) -> None:
    found = evaluate(predictions, path, iou, engine=engine)
    assert (found.engine, [note for note in found.notes if "cannot predict" not in note]) == (engine, [])
    figures = [getattr(found, name) for name in FIGURES]
    assert [-1 if figure is None else figure for figure in figures] == pytest.approx(list(expected.stats), abs=1e-12)
    tp = fp = 0
    for one in _of_all_areas(expected):
        counts = ~one["dtIgnore"][0].astype(bool)
        tp += int((counts & (one["dtMatches"][0] > 0)).sum())
        fp += int((counts & (one["dtMatches"][0] == 0)).sum())
    annotated = sum(not one.get("iscrowd") for one in expected.cocoGt.dataset["annotations"])
    assert (found.counts.tp, found.counts.fp, found.counts.fn) == (tp, fp, annotated - tp)


def check_matches(predictions: Predictions, path: Path, iou: Iou, dataset: dict[str, Any], expected: COCOeval) -> None:
    truth = read_truth(path, iou)
    matches = match(truth, join(predictions, truth).detections, iou, THRESHOLDS)
    order = {image["id"]: truth.files.index(image["file_name"]) for image in dataset["images"]}
    numbers = np.array([0, *(one["id"] for one in dataset["annotations"])])
    seen = 0
    for one in _of_all_areas(expected):
        ours = (matches.image == order[one["image_id"]]) & (matches.category == one["category_id"])
        assert matches.scores[ours].tolist() == one["dtScores"]
        assert np.array_equal(numbers[matches.partner[:, ours] + 1], one["dtMatches"])
        assert np.array_equal(matches.ignored[:, ours], one["dtIgnore"])
        seen += int(ours.sum())
    assert seen == len(matches.index)
    resampled = ResampledPrecision(truth, matches)(np.ones(len(truth), np.int64))
    precision = expected.eval["precision"][:, :, :, 0, -1]
    wanted = np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan)
    np.testing.assert_allclose(resampled, wanted, atol=1e-12)


def _of_all_areas(expected: COCOeval) -> list[dict[str, Any]]:
    return [one for one in expected.evalImgs if one is not None and one["aRng"] == [0, 1e10]]
