"""imdlbenco: the eleven models of IMDL-BenCo (arXiv 2406.10580), image manipulation localization, in PyTorch.

As in upstream's script, an image passes the transform, the network, and bilinear interpolation to the image's size;
unlike there, no ground truth or edge masks are needed, and no batch is dropped.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from checkpoint import load_state, read_state
from construct import build_network, ignore_cuda_calls, post_function
from orch_runner.contract import Fatal
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from sizing import Sizing
from zoo import ARCHITECTURES

DEFAULTS = {"batch_norm": "eval", "keep_canvas": False, "mask_threshold": 0.5, "torch_threads": 1}
SEED = 0
"""Seed of each forward pass that draws random numbers, so that equal batches give equal masks."""


class CanvasMask(NamedTuple):
    """The network's mask on its canvas, (h, w) float32, and the image-level probability, if it has one."""

    mask: np.ndarray
    score: Optional[float]


class Predictor(BasePredictor):
    color = "RGB"
    # Upstream opens images with Pillow.
    decoder = "pillow"
    max_batch = 64
    framework = "torch"

    def load(self, model: Model, device: str) -> None:
        self.prepare(model, device)
        network = build_network(self._architecture, device)
        load_state(network, read_state(model.weights["checkpoint"]), model.name)
        self.use(network)

    def prepare(self, model: Model, device: str) -> None:
        """Do all of load() except the network. Raises ValueError for wrong settings."""
        self._device = device
        self._read_settings(model)
        self._prepare_torch()
        self._transform, self._post = self._sizing.transform(), post_function(self._architecture)
        self._preparers = ThreadPoolExecutor(model.threads, thread_name_prefix="prepare")

    def use(self, network: Any) -> None:
        """Use this network, which has its weights."""
        self._network = network.to(self._device).train(self._training)
        parameters = dict(network.named_parameters())
        changed = [parameters[name] for name in self._architecture.changed_by_forward]
        self._kept = [(parameter, parameter.detach().clone()) for parameter in changed]

    def _read_settings(self, model: Model) -> None:
        self._architecture = ARCHITECTURES[model.architecture]
        defaults: Dict[str, Any] = {**DEFAULTS, "sizing": self._architecture.sizing}
        unknown = sorted(set(model.settings) - set(defaults))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        settings = {**defaults, **model.settings}
        if settings["batch_norm"] not in ("eval", "train"):
            raise ValueError(f"batch_norm is {settings['batch_norm']!r}, must be eval or train")
        self._training = settings["batch_norm"] == "train"
        self._keeps_canvas = bool(settings["keep_canvas"])
        self._sizing = Sizing(self._architecture.size, settings["sizing"])
        self._torch_threads = int(settings["torch_threads"])

    def _prepare_torch(self) -> None:
        import cv2
        import torch

        # The rounding of sums depends on the number of threads, so a worker's share of the cores must not set it.
        torch.set_num_threads(self._torch_threads)
        cv2.setNumThreads(1)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

    def predict(self, images: List[Image]) -> List[Any]:
        import torch

        try:
            with torch.no_grad(), ignore_cuda_calls(self._device):
                return self._forward(images)
        except Exception as error:
            if self._training and "out of memory" in str(error):
                hint = "set a smaller --batch-size; orch does not reduce it, as batch_norm=train depends on it"
                raise Fatal("device", 4, f"too many images in a batch ({len(images)}): {error}", hint) from error
            raise

    def _forward(self, images: List[Image]) -> List[CanvasMask]:
        import torch

        fields = self._make_fields(images)
        for parameter, kept in self._kept:
            parameter.data = kept.clone()
        if self._training or self._architecture.draws_at_random:
            torch.manual_seed(SEED)
        output = self._network(**fields)
        masks = output["pred_mask"][:, 0].float().cpu().numpy()
        scores: List[Optional[float]] = [None] * len(images)
        if self._architecture.image_score:
            # For a batch of one image, Trufor's is a scalar.
            scores = output["pred_label"].reshape(-1).float().cpu().tolist()
        return [CanvasMask(mask, score) for mask, score in zip(masks, scores)]

    def _make_fields(self, images: List[Image]) -> Dict[str, Any]:
        """Return the fields of upstream's data loader, with zeros for the ground truth.

        Masks and labels are used only for the losses, which are ignored here.
        """
        import torch

        canvas = self._sizing.canvas
        records = list(self._preparers.map(self._make_record, images))
        fields = torch.utils.data.default_collate(records)
        for name in ("mask", "edge_mask"):
            fields[name] = torch.zeros(len(images), 1, canvas, canvas)
        fields["label"] = torch.zeros(len(images))
        return {name: value.to(self._device) for name, value in fields.items()}

    def _make_record(self, image: Image) -> Dict[str, Any]:
        record: Dict[str, Any] = {"image": self._sizing.prepare(self._transform, image.pixels)}
        if self._post is not None:
            self._post(record)
        return record

    def finish(self, raw: CanvasMask, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        return Prediction(
            probability=self._sizing.restore(raw.mask, height, width),
            image_score=raw.score,
            canvas=self._sizing.crop(raw.mask, height, width) if self._keeps_canvas else None,
        )

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write random weights whose meaningless masks exceed 0.5 in parts of a photograph."""
        from random_weights import write_random_weights

        write_random_weights(model.architecture, folder, seed)
