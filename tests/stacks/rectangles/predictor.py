"""rectangles: boxes of the connected regions in which one of red, green and blue is much the strongest."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor


class Predictor(BasePredictor):
    max_batch = 4

    def load(self, model: Model, device: str) -> None:
        del device
        self.lead = int(model.settings["lead"])

    def predict(self, images: List[Image]) -> List[Prediction]:
        return [find_rectangles(image.pixels, self.lead) for image in images]


def find_rectangles(pixels: np.ndarray, lead: int) -> Prediction:
    """Return a box per region; its score is the share of the box that has the colour.

    Inside, a channel is stronger than both others by more than `lead`.
    """
    values = pixels.astype(np.int16)
    found: List[Tuple[Tuple[int, int, int, int], int, float]] = []
    for channel in range(3):
        others = np.delete(values, channel, axis=2).max(axis=2)
        inside = values[:, :, channel] - others > lead
        found += [(box, channel, share) for box, share in split(inside)]
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([share for _, _, share in found], np.float32)
    return Prediction(boxes, np.array([channel for _, channel, _ in found], int), scores, None)


def split(inside: np.ndarray) -> List[Tuple[Tuple[int, int, int, int], float]]:
    """Return box and filled share of each region between empty rows, then between empty columns of those."""
    found = []
    for top, bottom in runs(inside.any(axis=1)):
        band = inside[top:bottom]
        for left, right in runs(band.any(axis=0)):
            part = band[:, left:right]
            rows = np.flatnonzero(part.any(axis=1))
            first, last = int(rows[0]), int(rows[-1]) + 1
            found.append(((left, top + first, right, top + last), float(part[first:last].mean())))
    return found


def runs(flags: np.ndarray) -> List[Tuple[int, int]]:
    """Return start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2])]
