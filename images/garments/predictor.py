"""garments: detect drawn garments with one small ONNX network on the CPU (training/garments/ makes it)."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import PIL.Image
from orch_runner.helpers.onnx_session import open_session
from orch_runner.predictor import CropMask, Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor

INPUT_SIZE = 160
# Masks are enlarged in bands of this many pixels, so that large photographs need no large float arrays.
BAND_PIXELS = 1 << 22

DEFAULTS = {
    "mask_threshold": 0.5,  # a pixel belongs to the mask above this probability
    "peak_floor": 0.02,  # peaks below this probability are not turned into masks
    "min_area": 0.0008,  # masks under this share of the image are dropped
    "nms_iou": 0.6,  # two masks of one class that overlap more are one garment
    "nms_iou_across_classes": 0.8,  # the same for masks of different classes
}


class Candidates(NamedTuple):
    """The network's peaks: scores (K,), classes (K,) and mask probabilities (K, h, w) over the whole image."""

    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


class Predictor(BasePredictor):
    color = "RGB"
    decoder = "pillow"
    max_batch = 1

    def load(self, model: Model, device: str) -> None:
        if device != "cpu":
            raise ValueError(f"garments runs on the CPU only, not on {device!r}")
        self.settings = {**DEFAULTS, **model.settings}
        self.session = open_session(model.weights["onnx"], model.threads)

    def predict(self, images: List[Image]) -> List[Any]:
        return [self._run(image) for image in images]

    def _run(self, image: Image) -> Candidates:
        """Stretch the image to the network's square input and run it; `finish` stretches the masks back."""
        square = PIL.Image.fromarray(image.pixels).resize((INPUT_SIZE, INPUT_SIZE), PIL.Image.Resampling.BILINEAR)
        batch = np.asarray(square, dtype=np.float32).transpose(2, 0, 1)[None]
        return Candidates(*self.session.run(["scores", "classes", "masks"], {"image": batch}))

    def finish(self, raw: Candidates, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        threshold = self.settings["mask_threshold"]
        kept = _suppress(raw, self.settings)
        instances = []
        for index, score in kept:
            mask = _enlarge(raw.masks[index], width, height, threshold)
            if mask is not None and mask.pixels.sum() >= self.settings["min_area"] * width * height:
                instances.append((_box(mask), int(raw.classes[index]), score, mask))
        return Prediction(
            boxes=np.asarray([box for box, _, _, _ in instances], dtype=np.float32).reshape(-1, 4),
            classes=np.asarray([class_index for _, class_index, _, _ in instances], dtype=np.int64),
            scores=np.asarray([score for _, _, score, _ in instances], dtype=np.float32),
            masks=[mask for _, _, _, mask in instances],
        )


def _suppress(raw: Candidates, settings: Dict[str, float]) -> List[Tuple[int, float]]:
    """Return the indices and scores of the candidates without duplicates, best first.

    A candidate's score is its peak times the mean probability inside its mask, which ranks vague masks lower.
    """
    inside = raw.masks > settings["mask_threshold"]
    areas = inside.sum(axis=(1, 2))
    certainty = (raw.masks * inside).sum(axis=(1, 2)) / np.maximum(areas, 1)
    scores = raw.scores * certainty
    kept: List[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if raw.scores[index] < settings["peak_floor"] or areas[index] == 0:
            continue
        if not any(_is_duplicate(inside, raw.classes, index, other, settings) for other in kept):
            kept.append(int(index))
    return [(index, float(scores[index])) for index in kept]


def _is_duplicate(inside: np.ndarray, classes: np.ndarray, index: int, other: int, settings: Dict[str, float]) -> bool:
    shared = np.count_nonzero(inside[index] & inside[other])
    either = np.count_nonzero(inside[index] | inside[other])
    same_class = classes[index] == classes[other]
    limit = settings["nms_iou"] if same_class else settings["nms_iou_across_classes"]
    return bool(shared >= limit * either)


def _enlarge(grid: np.ndarray, width: int, height: int, threshold: float) -> Optional[CropMask]:
    """Enlarge a grid of probabilities over the image to a mask in pixels, cropped to its box; None if empty."""
    inside = grid > threshold
    left, right = _span(inside.any(axis=0), width)
    top, bottom = _span(inside.any(axis=1), height)
    source = PIL.Image.fromarray(np.ascontiguousarray(grid, dtype=np.float32))
    per_pixel_x, per_pixel_y = grid.shape[1] / width, grid.shape[0] / height
    band = max(1, BAND_PIXELS // (right - left))
    bands = []
    for first in range(top, bottom, band):
        last = min(first + band, bottom)
        region = (left * per_pixel_x, first * per_pixel_y, right * per_pixel_x, last * per_pixel_y)
        size = (right - left, last - first)
        bands.append(np.asarray(source.resize(size, PIL.Image.Resampling.BILINEAR, box=region)) > threshold)
    pixels = np.concatenate(bands)
    if not pixels.any():
        return None
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    crop = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return CropMask(left + int(columns[0]), top + int(rows[0]), np.ascontiguousarray(crop))


def _span(occupied: np.ndarray, pixels: int) -> Tuple[int, int]:
    """Return the range of pixels within one cell of the occupied cells and inside the image."""
    cells = np.flatnonzero(occupied)
    scale = pixels / len(occupied)
    first = max(0, int(np.floor((cells[0] - 1) * scale)))
    last = min(pixels, int(np.ceil((cells[-1] + 2) * scale)))
    return first, last


def _box(mask: CropMask) -> Tuple[int, int, int, int]:
    height, width = mask.pixels.shape
    return mask.x, mask.y, mask.x + width, mask.y + height
