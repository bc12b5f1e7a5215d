"""Masks pasted by their crops against the plain way: enlarge, draw into the whole image, threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from orch_runner.helpers.paste import paste_masks
from orch_runner.predictor import CropMask

Pixels = NDArray[np.float32]
HEIGHT, WIDTH = 23, 31


def enlarge(mask: Pixels, height: int, width: int) -> Pixels:
    """Linear between cells' centres, the outermost cells repeated."""
    rows, columns = (
        np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
        for side, cells in zip((height, width), mask.shape, strict=True)
    )
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, mask.shape[0] - 1), np.minimum(left + 1, mask.shape[1] - 1)
    down, across = (rows - top)[:, None], (columns - left)[None]
    upper = mask[top][:, left] * (1 - across) + mask[top][:, right] * across
    lower = mask[bottom][:, left] * (1 - across) + mask[bottom][:, right] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def plainly(mask: Pixels, box: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """Pixel by pixel into the whole image."""
    left, top, right, bottom = box
    enlarged = enlarge(mask, max(bottom - top, 0) + 1, max(right - left, 0) + 1) > 0.5
    full = np.zeros((height, width), bool)
    for row in range(max(top, 0), min(bottom + 1, height)):
        for column in range(max(left, 0), min(right + 1, width)):
            full[row, column] = enlarged[row - top, column - left]
    return full


def drawn(crop: CropMask, height: int, width: int) -> NDArray[np.bool_]:
    full = np.zeros((height, width), bool)
    rows, columns = crop.pixels.shape
    assert crop.x >= 0
    assert crop.y >= 0
    full[crop.y : crop.y + rows, crop.x : crop.x + columns] = crop.pixels
    assert full.sum() == crop.pixels.sum(), "the crop leaves the image"
    return full


edges = st.integers(-12, 40)
boxes = st.tuples(edges, edges, edges, edges).map(list)
masks = hnp.arrays(np.float32, (4, 5), elements=st.sampled_from([0.0, 0.125, 0.4375, 0.5, 0.5625, 1.0]))


@given(st.lists(st.tuples(masks, boxes), min_size=1, max_size=4))
def test_crops_are_what_the_whole_image_would_hold(instances: list[tuple[Pixels, list[int]]]) -> None:
    stacked = np.stack([mask for mask, _ in instances])
    crops = paste_masks(stacked, np.array([box for _, box in instances]), HEIGHT, WIDTH, enlarge)
    for crop, (mask, box) in zip(crops, instances, strict=True):
        assert np.array_equal(drawn(crop, HEIGHT, WIDTH), plainly(mask, box, HEIGHT, WIDTH))


def test_a_large_mask_is_cut_to_what_is_above_the_threshold() -> None:
    mask = np.zeros((1, 10, 10), np.float32)
    mask[0, 4, 6] = 1
    (crop,) = paste_masks(mask, np.array([[0, 0, 999, 999]]), 1000, 1000, enlarge)
    assert crop.pixels.any()
    assert max(crop.pixels.shape) < 310


def test_nothing_to_paste() -> None:
    nothing = paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.int32), 10, 10, enlarge)
    assert nothing == []
    below, outside = paste_masks(
        np.stack([np.full((3, 3), 0.25, np.float32), np.ones((3, 3), np.float32)]),
        np.array([[0, 0, 9, 9], [20, 20, 30, 30]]),
        10,
        10,
        enlarge,
    )
    assert not below.pixels.any()
    assert not outside.pixels.any()


def test_a_pixel_at_the_threshold_is_not_part_of_the_mask() -> None:
    mask = np.array([[[0.5, 0.5], [0.5, np.nextafter(np.float32(0.5), np.float32(1))]]], np.float32)
    (crop,) = paste_masks(mask, np.array([[0, 0, 1, 1]]), 4, 4, enlarge)
    assert np.argwhere(drawn(crop, 4, 4)).tolist() == [[1, 1]]


@pytest.mark.parametrize("turns", range(4))
def test_a_cell_reaches_far_into_neighbours_just_below_the_threshold(turns: int) -> None:
    """Interpolation spreads the only cell above the threshold nearly a whole cell, of 20 pixels here."""
    mask = np.full((10, 10), 0.497, np.float32)
    mask[3:7, 0] = 1
    mask[3:7, 5] = 1
    mask = np.rot90(mask, turns).copy()
    box = [3, 4, 202, 203]
    (crop,) = paste_masks(mask[None], np.array([box]), 210, 210, enlarge)
    assert np.array_equal(drawn(crop, 210, 210), plainly(mask, box, 210, 210))
