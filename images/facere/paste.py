"""Paste the small masks of a cut graph into the image, each inside its box."""

from __future__ import annotations

from typing import List

import numpy as np
from orch_runner.helpers.onnx_session import open_session
from orch_runner.helpers.paste import paste_masks
from orch_runner.predictor import CropMask
from surgery import resize_graph

THRESHOLD = 0.5


class Paster:
    """Enlarge masks with ONNX Runtime's own Resize; another library's differs in the last bits, and moves masks' edges.

    Safe to use from several threads at once.
    """

    def __init__(self) -> None:
        # An arena would keep the memory of the largest mask.
        self._session = open_session(resize_graph(), threads=1, arena=False)

    def paste(self, masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> List[CropMask]:
        """Paste (N, 1, m, m) masks at (N, 4) whole-pixel boxes with inclusive right and lower edges."""
        return paste_masks(masks[:, 0], boxes, height, width, self._enlarge, THRESHOLD)

    def _enlarge(self, mask: np.ndarray, height: int, width: int) -> np.ndarray:
        sizes = np.array([1, 1, height, width], np.int64)
        enlarged: np.ndarray = self._session.run(None, {"mask": mask[None, None], "sizes": sizes})[0][0, 0]
        return enlarged
