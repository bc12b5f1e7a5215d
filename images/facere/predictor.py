"""facere: Mask R-CNN R50-FPN v2 trained on Fashionpedia (facere) and FashionFail (facere+), in ONNX Runtime.

The published graphs normalize and resize by themselves and take one image at a time. Their last step, pasting the
masks into the image, is cut out (surgery.py) and done in the runner's threads (paste.py); `paste=graph` leaves it in.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from graphs import cut_graph
from orch_runner.helpers.onnx_session import open_session
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from paste import THRESHOLD, Paster
from random_weights import write_random_weights

PROVIDERS: Dict[str, Tuple[str, Dict[str, str]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # The default tries every algorithm for every new image size, which is slow and not the same each time.
    "cuda": ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}),
}
DEFAULTS = {"paste": "cut"}


class Found(NamedTuple):
    """A graph's outputs: boxes (N, 4), labels and scores (N,), masks; grown boxes only where the graph was cut."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    grown: Optional[np.ndarray] = None


class Thresholded(Sequence[Any]):
    """The (N, 1, H, W) masks of a whole graph as (H, W) bool, each made when asked for: together they are large."""

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
        # Sizes differ from image to image: planning by the last one's costs a third of the peak.
        self._session = open_session(graph, model.threads, device, pattern=False)
        self._input = self._session.get_inputs()[0].name

    def predict(self, images: List[Image]) -> List[Any]:
        return [Found(*self._session.run(None, {self._input: as_input(image.pixels)})) for image in images]

    def finish(self, raw: Found, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        masks: Any
        if self._paster is None or raw.grown is None:
            masks = Thresholded(raw.masks)
        else:
            masks = self._paster.paste(raw.masks, raw.grown, height, width)
        return Prediction(boxes=raw.boxes, classes=raw.labels, scores=raw.scores, masks=masks)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write weights that find something on photographs, though nothing sensible."""
        write_random_weights(model.name, folder, seed)


def as_input(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 pixels as the graph's (1, 3, H, W) float32 in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    planes /= np.float32(255)
    return planes[None]
