"""facere: Mask R-CNN R50-FPN v2 trained on Fashionpedia (facere) and FashionFail (facere+), in ONNX Runtime.

The published graphs include normalization and resizing, and take one image at a time. Their last step, pasting masks
into the image, is removed (surgery.py) and done in the runner's threads (paste.py); `paste=graph` keeps it.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np
from graphs import cut_graph
from orch_runner.helpers.onnx_session import open_session
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from paste import THRESHOLD, Paster
from random_weights import write_random_weights

DEFAULTS = {"paste": "cut"}


class FacereDetections(NamedTuple):
    """A graph's outputs: boxes (N, 4), labels and scores (N,), masks; grown boxes only from a cut graph."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    grown: Optional[np.ndarray] = None


class LazyMasks(Sequence[Any]):
    """The (N, 1, H, W) masks of an uncut graph as (H, W) bool; each is made on access, because all are large."""

    def __init__(self, masks: np.ndarray) -> None:
        self._masks = masks

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: Any) -> Any:
        return self._masks[index, 0] > THRESHOLD


class Predictor(BasePredictor):
    color = "RGB"
    decoder = "pillow"
    max_batch = 1
    framework = "onnxruntime"

    def load(self, model: Model, device: str) -> None:
        unknown = sorted(set(model.settings) - set(DEFAULTS))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        paste = {**DEFAULTS, **model.settings}["paste"]
        if paste not in ("cut", "graph"):
            raise ValueError(f"paste is {paste!r}, must be cut or graph")
        graph: Any = model.weights["onnx"]
        self._paster: Optional[Paster] = None
        if paste == "cut":
            graph, was_cut = cut_graph(graph, model.cache)
            self._paster = Paster() if was_cut else None
        # Sizes differ from image to image: reusing the last memory plan raises the peak by a third.
        self._session = open_session(graph, model.threads, device, pattern=False)
        self._input = self._session.get_inputs()[0].name

    def predict(self, images: List[Image]) -> List[Any]:
        return [FacereDetections(*self._session.run(None, {self._input: make_input(image.pixels)})) for image in images]

    def finish(self, raw: FacereDetections, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        masks: Any
        if self._paster is None or raw.grown is None:
            masks = LazyMasks(raw.masks)
        else:
            masks = self._paster.paste(raw.masks, raw.grown, height, width)
        return Prediction(boxes=raw.boxes, classes=raw.labels, scores=raw.scores, masks=masks)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write random weights that give meaningless detections on photographs."""
        write_random_weights(model.architecture, folder, seed)


def make_input(pixels: np.ndarray) -> np.ndarray:
    """Turn (H, W, 3) uint8 pixels into the graph's (1, 3, H, W) float32 in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    planes /= np.float32(255)
    return planes[None]
