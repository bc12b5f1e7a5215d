"""Average precision of resampled images is what pycocotools says of those images; intervals hold what they should."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.evaluation.coco.detections import join
from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.ground_truth import Truth, read_truth
from orchestrator.evaluation.coco.matching import match
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.evaluation.compare.bootstrap import compute_intervals
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.evaluate_samples import random_arrays, random_truth, reference, stored
from tests.unit.predictions.predictions_samples import Arrays, digests


def resampler(tmp_path: Path, sample: dict[str, Any], arrays: Arrays) -> tuple[Truth, ResampledPrecision]:
    predictions, annotations = stored(tmp_path, arrays, sample)
    truth = read_truth(annotations, "bbox")
    return truth, ResampledPrecision(truth, match(truth, join(predictions, truth).detections, "bbox", THRESHOLDS))


def repeated(sample: dict[str, Any], arrays: Arrays, times: np.ndarray[Any, Any]) -> tuple[dict[str, Any], Arrays]:
    """The files in which image i really is there times[i] times, scores made different so that no order is a matter of
    chance."""
    order = np.repeat(np.arange(len(times)), times)
    found = Predictions(arrays)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, image in enumerate(order.tolist()):
        one = sample["images"][image]
        images.append({**one, "id": place + 1, "file_name": f"{place}.jpg"})
        there = [a for a in sample["annotations"] if a["image_id"] == one["id"]]
        annotations += [{**a, "image_id": place + 1, "id": len(annotations) + n} for n, a in enumerate(there, 1)]
    rows = [np.arange(*arrays["offsets"][i : i + 2]) for i in order.tolist()]
    rows_all = np.concatenate(rows).astype(int)
    result = {name: arrays[name][rows_all] for name in ("boxes", "classes", "scores")}
    masks = [found.counts(row) for row in rows_all.tolist()]
    result |= {
        "image_file": np.array([image["file_name"] for image in images]),
        "image_sha256": digests([image["file_name"] for image in images]),
        "image_size": arrays["image_size"][order],
        "status": arrays["status"][order],
        "error": arrays["error"][order],
        "offsets": np.cumsum([0, *map(len, rows)], dtype=np.int64),
        "masks": np.frombuffer(b"".join(masks), np.uint8).copy(),
        "mask_offsets": np.cumsum([0, *map(len, masks)], dtype=np.int64),
        "meta": arrays["meta"],
    }
    return {**copy.deepcopy(sample), "images": images, "annotations": annotations}, result


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_scores_as_pycocotools_scores_those_images(tmp_path: Path, seed: int) -> None:
    sample = random_truth(seed)
    arrays = random_arrays(sample, seed + 50, crowded=seed == 0)
    # No two detections of one score: their order would be that of the images, which a resample changes.
    rng = np.random.default_rng(seed)
    every = np.sort(rng.permutation(1 << 16)[: len(arrays["scores"])].astype(np.float32) / (1 << 16))[::-1]
    image = np.repeat(np.arange(len(arrays["status"])), np.diff(arrays["offsets"]))
    shuffled = rng.permutation(every)
    arrays["scores"] = shuffled[np.lexsort((-shuffled, image))]
    truth, resampled = resampler(tmp_path, sample, arrays)
    times = np.bincount(rng.integers(0, len(truth), len(truth)), minlength=len(truth))
    assert times.max() > 1
    assert times.min() == 0
    again, predictions = repeated(sample, arrays, times)
    expected = reference(*stored(tmp_path, predictions, again, "again"), "bbox").eval["precision"][:, :, :, 0, -1]
    wanted = np.where((expected > -1).all(axis=1), expected.mean(axis=1), np.nan)
    np.testing.assert_allclose(resampled(times), wanted, atol=1e-9)
    assert np.nanmean(wanted) > 0.05


def test_nothing_found_and_nothing_annotated(tmp_path: Path) -> None:
    sample = random_truth(1)
    truth, resampled = resampler(tmp_path, {**sample, "annotations": []}, random_arrays(sample, 1))
    assert np.isnan(resampled(np.ones(len(truth), np.int64))).all()
    arrays = random_arrays({**sample, "annotations": []}, 1, crowded=False)
    keep = slice(0, 0)
    for name in ("boxes", "classes", "scores", "masks"):
        arrays[name] = arrays[name][keep]
    arrays |= {"offsets": np.zeros(13, np.int64), "mask_offsets": np.zeros(1, np.int64)}
    truth, resampled = resampler(tmp_path, sample, arrays)
    found = resampled(np.ones(len(truth), np.int64))
    assert np.nansum(found) == 0
    assert np.isnan(found[0]).tolist() == [False, False, False, True]


def test_intervals_are_seeded_paired_and_hold_the_difference(tmp_path: Path) -> None:
    sample = random_truth(2, images=30)
    truth, good = resampler(tmp_path, sample, random_arrays(sample, 1, noise=2, crowded=False))
    _, worse = resampler(tmp_path, sample, random_arrays(sample, 3, noise=8, crowded=False))
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    first = compute_intervals([good, worse, good], len(truth), weights, 200, seed=4)
    assert first == compute_intervals([good, worse, good], len(truth), weights, 200, seed=4)
    assert first != compute_intervals([good, worse, good], len(truth), weights, 200, seed=5)
    assert set(first[0]) == {"ap", "ap50", "ap75", "map_w"}
    assert all(one.low <= one.difference <= one.high < 0 and one.is_clear for one in first[0].values())
    # The same run against itself: a paired difference is nought in every resample.
    assert all(one.low == one.difference == one.high == 0 and not one.is_clear for one in first[1].values())
    whole = [np.nanmean(run(np.ones(len(truth), np.int64))) for run in (good, worse)]
    assert first[0]["ap"].difference == pytest.approx(whole[1] - whole[0])
