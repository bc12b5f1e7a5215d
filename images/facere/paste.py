"""Puts the small masks of a cut graph into the image, each only inside its box."""

from __future__ import annotations

from typing import List

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
        # Only there can anything be above the threshold; the rest need not be looked at.
        likely = masks[:, 0] > NEAR_THRESHOLD
        across = _spans(boxes[:, 0], boxes[:, 2], likely.any(axis=1), width)
        down = _spans(boxes[:, 1], boxes[:, 3], likely.any(axis=2), height)
        return [self._paste_one(mask[None], *spans) for mask, *spans in zip(masks, across.tolist(), down.tolist())]

    def _paste_one(self, mask: np.ndarray, across: List[int], down: List[int]) -> CropMask:
        left, right, first_column, last_column = across
        top, bottom, first_row, last_row = down
        if first_column >= last_column or first_row >= last_row:
            return CropMask(0, 0, np.zeros((1, 1), bool))
        sizes = np.array([1, 1, bottom - top, right - left], np.int64)
        enlarged = self._session.run(None, {"mask": mask, "sizes": sizes})[0][0, 0]
        inside = enlarged[first_row - top : last_row - top, first_column - left : last_column - left]
        return CropMask(first_column, first_row, inside > THRESHOLD)


def _spans(first: np.ndarray, last: np.ndarray, occupied: np.ndarray, limit: int) -> np.ndarray:
    """Boxes along one axis, as (N, 4): where each begins and ends (exclusive), and the part of it worth looking at.

    That is what lies inside the image and what `occupied` (N, m) cells, which share the box evenly, reach.
    """
    end = np.maximum(last, first) + 1
    cells = occupied.shape[1]
    lowest, highest = occupied.argmax(axis=1), cells - 1 - occupied[:, ::-1].argmax(axis=1)
    # Interpolation carries a cell one cell further; a pixel more for rounding.
    pixels = (end - first) / cells
    start = first + ((lowest - 0.5) * pixels).astype(np.int64) - 2
    stop = first + ((highest + 1.5) * pixels).astype(np.int64) + 2
    low = np.maximum(np.maximum(first, 0), start)
    high = np.where(occupied.any(axis=1), np.minimum(np.minimum(last + 1, limit), stop), low)
    return np.stack([first, end, low, high], axis=1)
