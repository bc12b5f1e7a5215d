"""Puts the small masks of a cut graph into the image, each only inside its box."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from orch_runner.onnx_session import open_session
from orch_runner.predictor import CropMask
from surgery import resize_graph

THRESHOLD = 0.5
NEAR_THRESHOLD = 0.499
"""Below THRESHOLD by more than interpolation can be off by rounding."""


class Paster:
    """Enlarges masks with ONNX Runtime's own Resize: other libraries' differ in the last bits, and so do masks' edges.

    Safe to use from several threads at once.
    """

    def __init__(self) -> None:
        # Without an arena: the largest mask's memory would be kept for good.
        self._session = open_session(resize_graph(), threads=1, arena=False)

    def paste(self, masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> List[CropMask]:
        """(N, 1, m, m) masks at (N, 4) whole-pixel boxes (right and lower edges belong to them) of an image."""
        return [self._paste_one(mask[None], box, height, width) for mask, box in zip(masks, boxes.tolist())]

    def _paste_one(self, mask: np.ndarray, box: List[int], height: int, width: int) -> CropMask:
        left, right, first_column, last_column = _span(box[0], box[2], width)
        top, bottom, first_row, last_row = _span(box[1], box[3], height)
        # Only there can anything be above the threshold; the rest need not be looked at.
        likely = mask[0, 0] > NEAR_THRESHOLD
        first_row, last_row = _within(likely.any(axis=1), top, bottom, first_row, last_row)
        first_column, last_column = _within(likely.any(axis=0), left, right, first_column, last_column)
        if first_column >= last_column or first_row >= last_row:
            return CropMask(0, 0, np.zeros((1, 1), bool))
        sizes = np.array([1, 1, bottom - top, right - left], np.int64)
        enlarged = self._session.run(None, {"mask": mask, "sizes": sizes})[0][0, 0]
        inside = enlarged[first_row - top : last_row - top, first_column - left : last_column - left]
        return CropMask(first_column, first_row, inside > THRESHOLD)


def _span(first: int, last: int, limit: int) -> Tuple[int, int, int, int]:
    """A box along one axis, right edge exclusive, and the part of it inside the image."""
    end = max(last + 1, first + 1)
    return first, end, max(first, 0), min(last + 1, limit)


def _within(occupied: np.ndarray, first: int, end: int, low: int, high: int) -> Tuple[int, int]:
    """The part of low to high that occupied cells of the mask reach; cells share first to end evenly."""
    cells = np.flatnonzero(occupied)
    if not len(cells):
        return low, low
    # Interpolation carries a cell one cell further; a pixel more for rounding.
    pixels = (end - first) / len(occupied)
    start = first + int((cells[0] - 0.5) * pixels) - 2
    stop = first + int((cells[-1] + 1.5) * pixels) + 2
    return max(low, start), min(high, stop)
