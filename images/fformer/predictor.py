"""fformer: FashionFormer with its authors' network and preprocessing; masks are enlarged by orch's code."""

from __future__ import annotations

from typing import Any, List, Mapping, NamedTuple, Tuple

import cv2
import numpy as np
import torch
from checkpoint import check, read
from masks import KeepAboveFloor, KeptInstances, Outlines, encode, enlarge
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from random_weights import write_random_weights
from upstream import build, prepare

SOURCE = "fashionformer"


class EnlargedInstances(NamedTuple):
    """Instances whose masks were enlarged on the GPU."""

    kept: KeptInstances
    outlines: Outlines


class Predictor(BasePredictor):
    color = "BGR"
    decoder = "opencv"
    # As upstream: a batch would pad images to the largest, which changes the results slightly.
    max_batch = 1
    framework = "torch"

    def load(self, model: Model, device: str) -> None:
        torch.set_num_threads(model.threads)
        cv2.setNumThreads(model.threads)
        if device == "cuda":
            # TF32 rounds to 10 bits on Ampere and newer GPUs only; without it, results agree between GPUs.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device(device)
        network, self._pipeline = build(model.sources[SOURCE], model.config, model.own_config)
        tensors = read(model.name, model.weights["pth"], model.digests.get("pth"), model.cache)
        check(model.architecture, _read_shapes(network.state_dict()), _read_shapes(tensors))
        network.load_state_dict(tensors, strict=True)
        network.roi_head.mask_head[-1].get_seg_masks = KeepAboveFloor(model.score_threshold)
        self._network = network.to(self._device)

    def predict(self, images: List[Image]) -> List[Any]:
        return [self._predict(image.pixels) for image in images]

    def _predict(self, pixels: np.ndarray) -> Any:
        image, meta = prepare(self._pipeline, pixels)
        with torch.no_grad():
            kept = self._network([image.to(self._device)], meta, return_loss=False, rescale=True)[0]
        if self._device.type == "cpu":
            return kept  # enlarged by `finish` in the runner's threads
        return EnlargedInstances(kept._replace(masks=kept.masks[:0]), enlarge(kept))

    def finish(self, raw: Any, image: Image) -> Prediction:
        kept, outlines = (raw, enlarge(raw)) if isinstance(raw, KeptInstances) else raw
        masks, boxes = encode(outlines)
        return Prediction(boxes, kept.classes, kept.scores, masks, attributes=kept.attributes)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write random weights that give meaningless detections on photographs."""
        network = build(model.sources[SOURCE], model.config, model.own_config).network
        write_random_weights(network, model.architecture, folder, seed)


def _read_shapes(tensors: Mapping[str, Any]) -> Mapping[str, Tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
