"""COCO results streamed from a file are those of the arrays, in pieces of any size, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import PredictionsError
from orchestrator.predictions import coco_results, predictions
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.evaluate_samples import random_arrays, random_truth
from tests.unit.predictions.predictions_samples import Arrays, sample_arrays, save


def expected_results(predictions: Predictions, ids: list[int]) -> list[dict[str, Any]]:
    """The results, made of whole records."""
    results = []
    for image_id, record in zip(ids, predictions, strict=True):
        rows = zip(record["boxes"].tolist(), record["classes"], record["scores"], record["masks"], strict=True)
        for (x1, y1, x2, y2), category, score, mask in rows:
            shape = {"size": mask["size"], "counts": mask["counts"].decode("ascii")}
            box = [x1, y1, x2 - x1, y2 - y1]
            one = {"image_id": image_id, "category_id": int(category), "bbox": box, "score": float(score)}
            results.append({**one, "segmentation": shape})
    return results


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
def test_results_are_those_of_the_records(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "CHUNK", chunk)
    arrays = random_arrays(random_truth(3), 3)
    loaded = Predictions.load(save(arrays, tmp_path / "p.npz"))
    ids = np.arange(100, 112)
    streamed = list(loaded.to_coco(ids))
    assert "masks" not in loaded._kept  # the file's largest array was not read whole
    assert len(streamed) == len(arrays["scores"]) > 100
    assert streamed == expected_results(loaded, ids.tolist())
    assert streamed == list(Predictions(arrays).to_coco(ids))


def test_no_instances(tmp_path: Path) -> None:
    arrays = sample_arrays()
    for name in ("boxes", "classes", "scores", "masks", "attributes"):
        arrays[name] = arrays[name][:0]
    arrays |= {"offsets": np.zeros(5, np.int64), "mask_offsets": np.zeros(1, np.int64)}
    assert list(Predictions.load(save(arrays, tmp_path / "p.npz")).to_coco()) == []


@pytest.mark.parametrize("rows", [1, 3, 500])
@pytest.mark.parametrize("has_masks", [True, False])
def test_what_is_written_is_the_same(
    tmp_path: Path, rows: int, has_masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_results, "ROWS", rows)
    arrays = random_arrays(random_truth(3), 3)
    arrays["scores"][:4] = [1e-7, 1e-45, 1, 0]
    arrays["boxes"][:2] = [[1e-12, -0.0, 3e9, 1e30], [0.1, 1 / 3, 16777216, 1e16]]
    if not has_masks:
        del arrays["masks"], arrays["mask_offsets"]
    ids = np.array([1 << 70, 'a "quoted" \\ name', "ä\n", 2.5, *range(8)], object)
    loaded = Predictions.load(save(arrays, tmp_path / "p.npz"))
    written = BytesIO()
    coco_results.write_results(written, loaded.read_rows(), ids.tolist(), loaded.image_size.tolist())
    assert json.loads(written.getvalue()) == list(loaded.to_coco(ids))
    first, *lines, last = written.getvalue().splitlines()
    assert (first, last) == (b"[", b"]")
    assert [json.loads(line.removesuffix(b",")) for line in lines] == list(loaded.to_coco(ids))


def test_broken_masks_are_written_as_they_are(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["masks"][:4] = [0, 34, 92, 255]
    written = BytesIO()
    predictions = Predictions(arrays)
    coco_results.write_results(
        written, predictions.read_rows(), predictions.image_id.tolist(), predictions.image_size.tolist()
    )
    assert json.loads(written.getvalue()) == list(predictions.to_coco())


@pytest.mark.parametrize("name", ["boxes", "scores"])
def test_what_is_not_finite_is_not_written(name: str) -> None:
    arrays = sample_arrays()
    arrays[name].reshape(-1)[0] = np.inf
    predictions = Predictions(arrays)
    with pytest.raises(ValueError, match="infinity"):
        coco_results.write_results(BytesIO(), predictions.read_rows(), [1, 2, 3, 4], predictions.image_size.tolist())


def cut(name: str, stop: int) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: arrays[name][:stop]})


def move(name: str, place: int, to: int) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name][place] = to

    return change


def shorten(arrays: Arrays) -> None:
    """The last mask ends one byte before its end."""
    arrays["mask_offsets"][-1] -= 1


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut("boxes", 5), "boxes ends too early"),
        (cut("classes", 5), "classes ends too early"),
        (cut("masks", 9), "masks ends too early"),
        (cut("mask_offsets", 6), "mask_offsets ends too early"),
        (cut("scores", 5), "offsets does not ascend from 0 to 5"),
        (cut("offsets", 4), "offsets does not ascend"),
        (move("offsets", 0, 1), "offsets does not ascend"),
        (move("offsets", 1, 9), "offsets does not ascend"),
        (move("mask_offsets", 0, 1), "mask_offsets do not start at 0"),
        (move("mask_offsets", 2, 0), "mask_offsets do not ascend"),
        (shorten, "masks continues after the last instance"),
        (lambda arrays: arrays.pop("masks"), "array 'masks': it is missing"),
        (lambda arrays: arrays.update(boxes=arrays["boxes"].astype(np.float64)), "its dtype is float64"),
    ],
    ids=range(13),
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Arrays], None], why: str) -> None:
    arrays = sample_arrays()
    damage(arrays)
    with pytest.raises(PredictionsError, match="not a valid predictions file") as caught:
        list(Predictions.load(save(arrays, tmp_path / "p.npz")).to_coco())
    assert why in str(caught.value.why)
    with pytest.raises(PredictionsError, match="not a valid predictions file") as caught:
        list(Predictions(arrays).to_coco())
    assert why in str(caught.value.why)
