"""From small masks at boxes to crop masks: each is enlarged to its box, and only what lies inside the image is kept.

How a mask is enlarged is the stack's own affair: libraries differ in the last bits, and so do the masks' edges.
"""

from __future__ import annotations

from typing import Callable, List

import numpy as np

from orch_runner.predictor import CropMask

Enlarge = Callable[[np.ndarray, int, int], np.ndarray]
"""Enlarges (or reduces) a (h, w) mask to a height and a width by interpolating between its cells' centres."""
ROUNDING = 1e-3
"""More than interpolation can be off by rounding."""


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int, enlarge: Enlarge, threshold: float = 0.5
) -> List[CropMask]:
    """Where (N, h, w) masks, each enlarged to its box, are above the threshold, inside a height x width image.

    `boxes` is (N, 4) int: left, top, right, bottom, right and bottom belonging to the box; it may leave the image. A
    box that is turned over counts as one pixel wide or high.
    """
    # Only there can anything be above the threshold; the rest need not be looked at.
    likely = masks > threshold - ROUNDING
    boxes = boxes.astype(np.int64, copy=False)
    across = _spans(boxes[:, 0], boxes[:, 2], likely.any(axis=1), width)
    down = _spans(boxes[:, 1], boxes[:, 3], likely.any(axis=2), height)
    pasted: List[CropMask] = []
    for mask, spans, rows in zip(masks, across.tolist(), down.tolist()):
        left, right, first_column, last_column = spans
        top, bottom, first_row, last_row = rows
        if first_column >= last_column or first_row >= last_row:
            pasted.append(CropMask(0, 0, np.zeros((1, 1), bool)))
            continue
        enlarged = enlarge(mask, bottom - top, right - left)
        inside = enlarged[first_row - top : last_row - top, first_column - left : last_column - left]
        pasted.append(CropMask(first_column, first_row, inside > threshold))
    return pasted


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
