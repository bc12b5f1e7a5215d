"""hostile: bright regions by numpy, and attacks on the host that a test names by the setting `attack`."""

from __future__ import annotations

import time
from typing import Any, List

import numpy as np
from guest import Attacker
from orch_runner.predictor import CropMask, Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor


class Predictor(BasePredictor):
    max_batch = 4

    def load(self, model: Model, device: str) -> None:
        self.sleep = float(model.settings["sleep"])
        self.per_pixel = model.name == "hostile-forged"
        self.attacker = Attacker(model)
        self.attacker.on("load")

    def predict(self, images: List[Image]) -> List[Any]:
        time.sleep(self.sleep * len(images))
        for image in images:
            # Tests cut runs into shards of two images, which are named by their numbers.
            self.attacker.on("predict", shard=int(image.file[:2]) // 2 if image.file[:2].isdigit() else 0)
        if self.per_pixel:
            return [image.pixels.max(axis=2).astype(np.float32) / 255 for image in images]
        return [image.pixels.max(axis=2) > 200 for image in images]

    def finish(self, raw: Any, image: Image) -> Prediction:
        if self.per_pixel:
            return Prediction(probability=raw, image_score=float(raw.mean()))
        rows, columns = np.flatnonzero(raw.any(axis=1)), np.flatnonzero(raw.any(axis=0))
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        crop = raw[top:bottom, left:right]
        middle = (left + right) // 2
        boxes = np.array([[left, top, right, bottom], [left, top, middle, bottom]], np.float32)
        masks = [CropMask(left, top, crop), CropMask(left, top, crop[:, : middle - left])]
        return Prediction(boxes, np.array([0, 1]), np.array([0.75, 0.5], np.float32), masks)
