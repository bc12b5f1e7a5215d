"""Compute the pixels that a mask of Attribute Mask R-CNN is enlarged to, exactly as upstream does."""

from __future__ import annotations

import numpy as np


def reference_boxes(boxes: np.ndarray, mask_size: int) -> np.ndarray:
    """Return (N, 4) int32 left, top, right, bottom (all inclusive) of masks with a border of one cell.

    `boxes` is (N, 4) float32 y1, x1, y2, x2 in pixels of the image, not clipped to it; `mask_size` is the masks' side
    without the border. The steps, their order and their precision follow paste_instance_masks in upstream's
    utils/mask_utils.py; others would move some edges by a pixel.
    """
    boxes = boxes.astype(np.float32, copy=False)
    scale = np.float32((mask_size + 2.0) / mask_size)
    grown = np.empty(boxes.shape, np.float32)
    for first, last, axis in ((0, 2, 1), (1, 3, 0)):
        half = (boxes[:, axis + 2] - boxes[:, axis]) * np.float32(0.5)
        centre = boxes[:, axis] + half
        half *= scale
        grown[:, first], grown[:, last] = centre - half, centre + half
    return grown.astype(np.int32)
