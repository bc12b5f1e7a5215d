"""Paste Attribute Mask R-CNN's 28 x 28 masks into the image, each inside its box."""

from __future__ import annotations

from typing import List

import cv2
import numpy as np
from boxes import reference_boxes
from orch_runner.helpers.paste import paste_masks
from orch_runner.predictor import CropMask

THRESHOLD = 0.5

# The runner already pastes several images in parallel.
cv2.setNumThreads(1)


def paste(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> List[CropMask]:
    """Paste (N, m, m) float32 masks at (N, 4) float32 y1, x1, y2, x2 boxes, which may exceed the image."""
    # Without a border of zeros, cv2 would repeat the outermost cells.
    bordered = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    return paste_masks(bordered, reference_boxes(boxes, masks.shape[1]), height, width, _enlarge, THRESHOLD)


def _enlarge(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    # cv2, as upstream: another library's interpolation differs in the last bits.
    enlarged: np.ndarray = cv2.resize(mask, (width, height))
    return enlarged
