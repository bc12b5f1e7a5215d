"""How far two predictions agree: what counts as equal, and what is told of the rest."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import PredictionsError
from orchestrator.evaluation.agreement import ToleranceAgreement, Tolerances, compare_within_tolerances
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import SIZES, Arrays, box_mask, sample_arrays, save


def compared(tmp_path: Path, other: Arrays, tolerances: Tolerances | None = None) -> ToleranceAgreement:
    first = Predictions.load(save(sample_arrays(), tmp_path / "a.npz"))
    return compare_within_tolerances(
        first, Predictions.load(save(other, tmp_path / "b.npz")), tolerances or Tolerances()
    )


def changed(name: str, row: Any, value: Any) -> Arrays:
    arrays = sample_arrays()
    arrays[name][row] = value
    return arrays


def with_mask(row: int, box: tuple[int, int, int, int]) -> Arrays:
    """The sample with another mask in a row of the first image."""
    arrays = sample_arrays()
    cuts = arrays["mask_offsets"].tolist()
    counts = [arrays["masks"][start:stop].tobytes() for start, stop in pairwise(cuts)]
    counts[row] = rle.encode(box_mask(SIZES[0], box))
    arrays["masks"] = np.frombuffer(b"".join(counts), np.uint8).copy()
    arrays["mask_offsets"] = np.cumsum([0, *map(len, counts)], dtype=np.int64)
    return arrays


def test_equal_predictions_agree_wholly(tmp_path: Path) -> None:
    found = compared(tmp_path, sample_arrays())
    assert found.is_equal
    report = found.as_json()
    assert (report["instances"], report["without_partner"], report["least_iou"]) == (6, 0, 1.0)
    assert report["score_difference"] == report["attribute_difference"] == report["image_score_difference"] == 0


@pytest.mark.parametrize(
    ("other", "field", "equal"),
    [
        (changed("scores", 0, 0.90005), "score_difference", True),
        (changed("scores", 0, 0.902), "score_difference", False),
        (changed("attributes", 0, 0.9), "attribute_difference", True),
        (changed("boxes", 0, 1), "box_difference", True),
        (changed("image_scores", 0, 0.3), "image_score_difference", False),
    ],
)
def test_what_is_held_against_the_tolerances(tmp_path: Path, other: Arrays, field: str, equal: bool) -> None:
    found = compared(tmp_path, other)
    assert found.is_equal is equal
    assert found.as_json()[field] > 0
    assert compared(tmp_path, other, Tolerances(score=0.5, mask_iou=0.5)).is_equal


def test_another_label_has_no_partner(tmp_path: Path) -> None:
    found = compared(tmp_path, changed("classes", 0, 7))
    assert not found.is_equal
    assert [image.alone for image in found.images] == [2, 0, 0, 0]


def test_masks_that_overlap_too_little_are_told(tmp_path: Path) -> None:
    found = compared(tmp_path, with_mask(0, (2, 3, 12, 16)))
    assert not found.is_equal
    assert found.as_json()["least_iou"] == pytest.approx(13 / 14)


def test_an_empty_mask_equals_an_empty_mask(tmp_path: Path) -> None:
    empty = save(with_mask(0, (0, 0, 0, 0)), tmp_path / "x.npz")
    assert compare_within_tolerances(Predictions.load(empty), Predictions.load(empty), Tolerances()).is_equal


def test_an_instance_at_the_floor_may_be_missing(tmp_path: Path) -> None:
    floor = 0.3 - 0.00005
    first, other = sample_arrays(), sample_arrays()
    for arrays in (first, other):
        meta = str(arrays["meta"][()]).replace('"score_threshold": 0.05', f'"score_threshold": {floor}')
        arrays["meta"] = np.array(meta)
    for name in ("boxes", "classes", "scores", "attributes"):
        other[name] = other[name][:-1]
    other["offsets"][-1] -= 1
    other["masks"] = other["masks"][: other["mask_offsets"][-2]]
    other["mask_offsets"] = other["mask_offsets"][:-1]
    loaded = [Predictions.load(save(one, tmp_path / f"{n}.npz")) for n, one in enumerate((first, other))]
    found = compare_within_tolerances(loaded[0], loaded[1], Tolerances())
    assert found.is_equal
    assert found.as_json()["at_score_floor"] == 1
    assert not compare_within_tolerances(loaded[0], loaded[1], Tolerances(score=1e-6)).is_equal


def test_an_image_that_failed_once_is_a_difference(tmp_path: Path) -> None:
    found = compared(tmp_path, changed("status", 2, 0))
    assert not found.is_equal
    assert found.images[2].fault == "failed in one of the two: truncated file"


def test_other_images_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="do not have the same images"):
        compared(tmp_path, changed("image_file", 0, "z.jpg"))
