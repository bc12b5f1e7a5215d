"""salience: how colourful each pixel is, as the probability that it belongs to a rectangle; no score of images."""

from __future__ import annotations

from typing import List

import numpy as np
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor


class Predictor(BasePredictor):
    max_batch = 4

    def load(self, model: Model, device: str) -> None:
        del device
        self.gain = float(model.settings["gain"])

    def predict(self, images: List[Image]) -> List[np.ndarray]:
        return [np.ptp(image.pixels.astype(np.float32), axis=2) / 255 for image in images]

    def finish(self, raw: np.ndarray, image: Image) -> Prediction:
        del image
        return Prediction(probability=np.minimum(raw * self.gain, 1))
