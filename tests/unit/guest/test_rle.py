"""The runner's run-length encoding against pycocotools' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from orch_runner.predictor import CropMask
from orch_runner.rle import crop_runs, encode_mask, encode_masks
from pycocotools import mask as coco_mask


def reference(mask: np.ndarray) -> bytes:
    return bytes(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(masks)
def test_a_full_mask_encodes_as_pycocotools_does(mask: np.ndarray) -> None:
    height, width = mask.shape
    assert encode_mask(mask, height, width) == reference(mask)
    assert encode_mask(mask.astype(np.uint8), height, width) == reference(mask)


@given(masks, st.tuples(*[st.integers(0, 3)] * 4))
def test_a_crop_encodes_as_the_full_mask_does(crop: np.ndarray, margins: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = margins
    full = np.pad(crop, ((top, bottom), (left, right)))
    height, width = full.shape
    assert encode_mask(CropMask(left, top, crop), height, width) == reference(full)
    assert sum(crop_runs(crop, left, top, height, width)) == height * width


@given(masks)
def test_encoded_masks_pass_through_in_every_spelling(mask: np.ndarray) -> None:
    height, width = mask.shape
    counts = reference(mask)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.T.ravel().astype(np.int8), [2]))))
    runs = np.diff(np.concatenate(([0], edges))).tolist()
    for spelling in (counts, counts.decode("ascii"), runs):
        assert encode_mask({"size": [height, width], "counts": spelling}, height, width) == counts


def test_full_height_columns_run_on_and_empty_crops_are_empty() -> None:
    full = np.ones((5, 4), bool)
    assert crop_runs(full, 0, 0, 5, 4).tolist() == [0, 20]
    assert crop_runs(full[:, 1:3], 1, 0, 5, 4).tolist() == [5, 10, 5]
    assert crop_runs(np.zeros((0, 3), bool), 0, 0, 5, 4).tolist() == [20]


def test_masks_are_taken_in_the_order_asked_for() -> None:
    stack = np.eye(3, dtype=bool)[:, None, :]
    assert encode_masks(stack, np.array([2, 0]), 1, 3) == [reference(stack[2]), reference(stack[0])]


@pytest.mark.parametrize(
    ("mask", "sign"),
    [
        (CropMask(3, 0, np.ones((2, 2), bool)), "leaves the 4x5 image"),
        (CropMask(0, -1, np.ones((2, 2), bool)), "leaves"),
        (CropMask(0, 0, np.ones((1, 2, 2), bool)), r"shape \(1, 2, 2\)"),
        (CropMask(0, 0, np.ones((2, 2))), "float64"),
        (np.ones((4, 5), bool), r"shape \(4, 5\)"),
        (np.full((5, 4), 0.3), "float64"),
        ({"size": [4, 5], "counts": b""}, r"size \[4, 5\]"),
        ({"size": [5, 4], "counts": [3, 4]}, "do not add up"),
        ({"size": [5, 4], "counts": [-1, 21]}, "do not add up"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Any, sign: str) -> None:
    with pytest.raises(ValueError, match=sign):
        encode_mask(mask, 5, 4)
