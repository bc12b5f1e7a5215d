"""Paste small masks into an image: enlarge each to its box, keep the part inside the image.

The stack supplies the function that enlarges: libraries differ in the last bits, and so would the masks' edges.
"""

from __future__ import annotations

from typing import Callable, List

import numpy as np

from orch_runner.predictor import CropMask

Enlarge = Callable[[np.ndarray, int, int], np.ndarray]
"""A function that resizes a (h, w) mask to a height and width by interpolating between its cells' centres."""
ROUNDING = 1e-3
"""An upper bound of the rounding error of interpolation."""


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int, enlarge: Enlarge, threshold: float = 0.5
) -> List[CropMask]:
    """Return where (N, h, w) masks, enlarged to their boxes, exceed the threshold in the image.

    `boxes` is (N, 4) int: left, top, right, bottom, all inclusive; a box may exceed the image. A box whose right or
    bottom edge is before the opposite one counts as one pixel wide or high.
    """
    # Only these cells can exceed the threshold.
    likely = masks > threshold - ROUNDING
    boxes = boxes.astype(np.int64, copy=False)
    across = _compute_spans(boxes[:, 0], boxes[:, 2], likely.any(axis=1), width)
    down = _compute_spans(boxes[:, 1], boxes[:, 3], likely.any(axis=2), height)
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


def _compute_spans(first: np.ndarray, last: np.ndarray, occupied: np.ndarray, limit: int) -> np.ndarray:
    """Return (N, 4) along one axis: start and end (exclusive) of each box, and of its part to compute.

    That part is inside the image and within reach of the `occupied` (N, m) cells, which divide the box evenly.
    """
    end = np.maximum(last, first) + 1
    cells = occupied.shape[1]
    lowest, highest = occupied.argmax(axis=1), cells - 1 - occupied[:, ::-1].argmax(axis=1)
    # Interpolation spreads a cell by up to one cell; one more pixel covers rounding.
    pixels = (end - first) / cells
    start = first + ((lowest - 0.5) * pixels).astype(np.int64) - 2
    stop = first + ((highest + 1.5) * pixels).astype(np.int64) + 2
    low = np.maximum(np.maximum(first, 0), start)
    high = np.where(occupied.any(axis=1), np.minimum(np.minimum(last + 1, limit), stop), low)
    return np.stack([first, end, low, high], axis=1)
