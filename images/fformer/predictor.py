"""FashionFormer by its authors' own code: their network, their preprocessing. The way to full-size masks is ours."""

from __future__ import annotations

from typing import Any, List, Mapping, NamedTuple, Tuple

import cv2
import numpy as np
import torch
from checkpoint import check, read
from masks import Found, Kept, Outlines, encode, enlarge
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from random_weights import write_random_weights
from upstream import build, prepare

SOURCE = "fashionformer"


class Enlarged(NamedTuple):
    """What was found, its masks enlarged where the network ran."""

    found: Found
    outlines: Outlines


class Predictor(BasePredictor):
    color = "BGR"
    decoder = "opencv"
    # Upstream predicts one by one; in a batch, images would be padded to the largest and come out a little different.
    max_batch = 1
    framework = "torch"

    def load(self, model: Model, device: str) -> None:
        torch.set_num_threads(model.threads)
        cv2.setNumThreads(model.threads)
        if device == "cuda":
            # Ampere and newer would round to 10 bits where older ones do not, and results would differ between GPUs.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device(device)
        network, self._pipeline = build(model.sources[SOURCE], model.config)
        tensors = read(model.name, model.weights["pth"], model.digests.get("pth"), model.cache)
        check(model.name, _shapes(network.state_dict()), _shapes(tensors))
        network.load_state_dict(tensors, strict=True)
        network.roi_head.mask_head[-1].get_seg_masks = Kept(model.score_threshold)
        self._network = network.to(self._device)

    def predict(self, images: List[Image]) -> List[Any]:
        return [self._predict(image.pixels) for image in images]

    def _predict(self, pixels: np.ndarray) -> Any:
        image, told = prepare(self._pipeline, pixels)
        with torch.no_grad():
            found = self._network([image.to(self._device)], told, return_loss=False, rescale=True)[0]
        # On a GPU there, where it takes no time; on the CPU in the runner's threads.
        return found if self._device.type == "cpu" else Enlarged(found._replace(masks=found.masks[:0]), enlarge(found))

    def finish(self, raw: Any, image: Image) -> Prediction:
        found, outlines = (raw, enlarge(raw)) if isinstance(raw, Found) else raw
        masks, boxes = encode(outlines)
        return Prediction(boxes, found.classes, found.scores, masks, attributes=found.attributes)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write weights that find something on photographs, though nothing sensible."""
        write_random_weights(build(model.sources[SOURCE], model.config).network, model.name, folder, seed)


def _shapes(tensors: Mapping[str, Any]) -> Mapping[str, Tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
