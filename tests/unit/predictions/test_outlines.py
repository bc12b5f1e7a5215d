"""Outlines and runs of masks give the masks again, filled by COCO's own code and by a few lines."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from orchestrator.predictions import rle
from orchestrator.predictions.outlines import (
    Outline,
    count_runs,
    crop_mask,
    is_hole,
    join_outlines,
    outline_mask,
    trace_outlines,
)

Mask = NDArray[np.bool_]


@st.composite
def masks(draw: Any) -> Mask:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits, bool).reshape(height, width)


def fill(outlines: list[Outline], size: tuple[int, ...]) -> Mask:
    """Fill by the even-odd rule: a pixel is inside if an odd number of lines lies on its left."""
    mask = np.zeros(size, bool)
    for outline in outlines:
        for (x1, y1), (x2, y2) in zip(outline.tolist(), np.roll(outline, -1, axis=0).tolist(), strict=True):
            for row in range(min(y1, y2), max(y1, y2)):
                x = x1 + (x2 - x1) * (row + 0.5 - y1) / (y2 - y1)
                mask[row, int(np.ceil(x - 0.5)) :] ^= True
    return mask


def fill_as_coco(outlines: list[Outline], size: tuple[int, ...]) -> Mask:
    polygons = [outline.ravel().tolist() for outline in outlines]
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *map(int, size)))
    return rle.decode(merged["counts"], size)


@given(masks())
@settings(max_examples=300, deadline=None)
def test_outlines_enclose_the_mask(mask: Mask) -> None:
    outlines = trace_outlines(mask)
    np.testing.assert_array_equal(fill(outlines, mask.shape), mask)
    parts = [outline for outline in outlines if not is_hole(outline)]
    assert len(parts) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    if parts and len(parts) == len(outlines):
        np.testing.assert_array_equal(fill_as_coco(parts, mask.shape), mask)


@given(masks().filter(np.any))
@settings(max_examples=300, deadline=None)
def test_one_line_through_all_outlines_encloses_the_mask(mask: Mask) -> None:
    joined = join_outlines(trace_outlines(mask))
    np.testing.assert_array_equal(fill([joined], mask.shape), mask)
    np.testing.assert_array_equal(fill_as_coco([joined], mask.shape), mask)


@given(masks())
@settings(deadline=None)
def test_runs_row_by_row_give_the_mask(mask: Mask) -> None:
    runs = count_runs(mask)
    values = np.arange(len(runs)) % 2 == 1
    np.testing.assert_array_equal(np.repeat(values, runs).reshape(mask.shape), mask)
    assert all(runs[1:])


@given(masks())
@settings(deadline=None)
def test_a_mask_in_its_image(mask: Mask) -> None:
    encoded = {"size": list(mask.shape), "counts": rle.encode(mask)}
    cropped, left, upper = crop_mask(encoded)
    whole = np.zeros_like(mask)
    whole[upper : upper + cropped.shape[0], left : left + cropped.shape[1]] = cropped
    np.testing.assert_array_equal(whole, mask)
    np.testing.assert_array_equal(fill(outline_mask(encoded), mask.shape), mask)


def test_parts_and_holes_turn_in_opposite_directions() -> None:
    ring = np.ones((5, 6), bool)
    ring[1:3, 2:4] = False
    part, hole = trace_outlines(ring)
    assert part.tolist() == [[0, 0], [6, 0], [6, 5], [0, 5]]
    assert sorted(hole.tolist()) == [[2, 1], [2, 3], [4, 1], [4, 3]]
    assert [is_hole(part), is_hole(hole)] == [False, True]
    assert trace_outlines(np.zeros((4, 4), bool)) == []
