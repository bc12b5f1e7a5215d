"""textlines: PP-OCRv4 text detection (differentiable binarization) as packaged by rapidocr-onnxruntime 1.4.4.

Scaling, colour order (BGR) and thresholds are those of its config.yaml and ch_ppocr_det/. The steps after the network
are orch's own, in numpy: a text line is a connected component, not the smallest rotated rectangle around one.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import PIL.Image
from components import Crop, Runs, find_runs, grow, label_runs, oriented_sides, split, sum_under, thicken
from orch_runner.helpers.onnx_session import open_session
from orch_runner.predictor import CropMask, Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from scaling import network_size, to_image

DEFAULTS = {
    "limit_side_len": 736,  # images with a shorter side below it are enlarged to it
    "max_side_len": 2000,  # limit of the longer side, which bounds memory
    "thresh": 0.3,  # a pixel of the map is text above this probability
    "box_thresh": 0.5,  # lines with a lower mean probability are dropped
    "unclip_ratio": 1.6,  # lines are dilated by area x ratio / perimeter: the network is trained on shrunken lines
    "min_side": 3,  # lines below this on the map, or not above it on the image, are dropped
}


class TextLine(NamedTuple):
    """One text line on the map, before it is scaled to the image."""

    score: float
    crop: Crop


class Predictor(BasePredictor):
    color = "BGR"
    decoder = "pillow"
    max_batch = 1

    def load(self, model: Model, device: str) -> None:
        if device != "cpu":
            raise ValueError(f"textlines runs on the CPU only, not on {device!r}")
        unknown = sorted(set(model.settings) - set(DEFAULTS))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        self._settings: Dict[str, float] = {key: float(model.settings.get(key, DEFAULTS[key])) for key in DEFAULTS}
        # Sizes differ from image to image: an arena would keep the memory of the largest one.
        self._session = open_session(model.weights["onnx"], model.threads, arena=False)
        self._input = self._session.get_inputs()[0].name

    def predict(self, images: List[Image]) -> List[Any]:
        return [self._run(image.pixels) for image in images]

    def finish(self, raw: Any, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        boxes: List[Tuple[int, int, int, int]] = []
        scores: List[float] = []
        masks: List[CropMask] = []
        for line in self._find_lines(raw):
            mask = to_image(line.crop, raw.shape, (height, width))
            if mask is not None and min(mask.pixels.shape) > self._settings["min_side"]:
                rows, columns = mask.pixels.shape
                boxes.append((mask.x, mask.y, mask.x + columns, mask.y + rows))
                scores.append(line.score)
                masks.append(CropMask(mask.x, mask.y, mask.pixels))
        return Prediction(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=np.zeros(len(boxes), np.int64),
            scores=np.array(scores, np.float32),
            masks=masks,
        )

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """Return the network's map (h, w) float32 for an image."""
        size = network_size(
            pixels.shape[0], pixels.shape[1], self._settings["limit_side_len"], self._settings["max_side_len"]
        )
        resized = PIL.Image.fromarray(pixels).resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
        values = (np.asarray(resized, np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)
        tensor = np.ascontiguousarray(values.transpose(2, 0, 1))[None]
        return np.asarray(self._session.run(None, {self._input: tensor})[0][0, 0])

    def _find_lines(self, probabilities: np.ndarray) -> List[TextLine]:
        text = probabilities > self._settings["thresh"]
        runs = find_runs(thicken(text))
        totals = _prefix_sums(np.where(text, probabilities, 0))
        counts = _prefix_sums(text)
        lines: List[TextLine] = []
        for part in split(runs, label_runs(runs, text.shape[1])):
            score = sum_under(totals, part) / sum_under(counts, part)
            if score >= self._settings["box_thresh"]:
                crop = self._dilate(part, text.shape)
                lines += [] if crop is None else [TextLine(min(score, 1.0), crop)]
        return lines

    def _dilate(self, part: Runs, shape: Tuple[int, ...]) -> Optional[Crop]:
        longer, shorter = oriented_sides(part)
        if shorter < self._settings["min_side"]:
            return None
        distance = longer * shorter * self._settings["unclip_ratio"] / (2 * (longer + shorter))
        return grow(part, distance, shape[0], shape[1])


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros((values.shape[0], values.shape[1] + 1), np.float64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
