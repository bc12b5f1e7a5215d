"""imdlbenco: the eleven models of IMDL-BenCo (arXiv 2406.10580), image manipulation localization, in PyTorch.

An image goes the way upstream's script sends it: its transform, its network, its bilinear interpolation back to the
image's size. Nothing is lost on the way: no ground truth, no edge masks, no batch dropped.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from checkpoint import load_state, read_state
from construct import build_network, cuda_only_where, post_function
from orch_runner.contract import Fatal
from orch_runner.predictor import Image, Model, Prediction
from orch_runner.predictor import Predictor as BasePredictor
from sizing import Sizing
from zoo import ARCHITECTURES

DEFAULTS = {"batch_norm": "eval", "mask_threshold": 0.5, "torch_threads": 1}
SEED = 0
"""Where a forward pass draws random numbers, every one starts from here: equal batches give equal masks."""


class Raw(NamedTuple):
    """The network's mask on its canvas, (h, w) float32, and the image-level probability where it has one."""

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
        """All of load() but the network. Raises ValueError for settings that are wrong."""
        self._device = device
        self._settings(model)
        self._prepare_torch()
        self._transform, self._post = self._sizing.transform(), post_function(self._architecture)
        self._preparers = ThreadPoolExecutor(model.threads, thread_name_prefix="prepare")

    def use(self, network: Any) -> None:
        """Take this network, its weights in it."""
        self._network = network.to(self._device).train(self._training)
        parameters = dict(network.named_parameters())
        changed = [parameters[name] for name in self._architecture.changed_by_forward]
        self._kept = [(parameter, parameter.detach().clone()) for parameter in changed]

    def _settings(self, model: Model) -> None:
        self._architecture = ARCHITECTURES[model.name]
        defaults: Dict[str, Any] = {**DEFAULTS, "sizing": self._architecture.sizing}
        unknown = sorted(set(model.settings) - set(defaults))
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        settings = {**defaults, **model.settings}
        if settings["batch_norm"] not in ("eval", "train"):
            raise ValueError(f"batch_norm is {settings['batch_norm']!r}, must be eval or train")
        self._training = settings["batch_norm"] == "train"
        self._sizing = Sizing(self._architecture.size, settings["sizing"])
        self._torch_threads = int(settings["torch_threads"])

    def _prepare_torch(self) -> None:
        import cv2
        import torch

        # How sums are cut into parts, and so how they round, depends on the threads: a worker's share of the machine's
        # cores must not decide that.
        torch.set_num_threads(self._torch_threads)
        cv2.setNumThreads(1)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

    def predict(self, images: List[Image]) -> List[Any]:
        import torch

        try:
            with torch.no_grad(), cuda_only_where(self._device):
                return self._forward(images)
        except Exception as error:
            if self._training and "out of memory" in str(error):
                hint = "a smaller --batch-size; with batch_norm=train it changes the masks, so it is yours to choose"
                raise Fatal("device", 4, f"{len(images)} images at once are too many: {error}", hint) from error
            raise

    def _forward(self, images: List[Image]) -> List[Raw]:
        import torch

        fields = self._fields(images)
        for parameter, kept in self._kept:
            parameter.data = kept.clone()
        if self._training or self._architecture.draws_at_random:
            torch.manual_seed(SEED)
        output = self._network(**fields)
        masks = output["pred_mask"][:, 0].float().cpu().numpy()
        scores: List[Optional[float]] = [None] * len(images)
        if self._architecture.image_score:
            # Trufor's is a scalar where the batch is one image.
            scores = output["pred_label"].reshape(-1).float().cpu().tolist()
        return [Raw(mask, score) for mask, score in zip(masks, scores)]

    def _fields(self, images: List[Image]) -> Dict[str, Any]:
        """What upstream's data loader would hand the network, with zeros for the ground truth.

        Masks and labels only go into the losses, which nobody looks at here.
        """
        import torch

        canvas = self._sizing.canvas
        records = list(self._preparers.map(self._record, images))
        fields = torch.utils.data.default_collate(records)
        for name in ("mask", "edge_mask"):
            fields[name] = torch.zeros(len(images), 1, canvas, canvas)
        fields["label"] = torch.zeros(len(images))
        return {name: value.to(self._device) for name, value in fields.items()}

    def _record(self, image: Image) -> Dict[str, Any]:
        record: Dict[str, Any] = {"image": self._sizing.prepare(self._transform, image.pixels)}
        if self._post is not None:
            self._post(record)
        return record

    def finish(self, raw: Raw, image: Image) -> Prediction:
        height, width = image.pixels.shape[:2]
        return Prediction(probability=self._sizing.restore(raw.mask, height, width), image_score=raw.score)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write weights whose masks are above one half in some places of a photograph; they mean nothing."""
        from random_weights import write_random_weights

        write_random_weights(model.name, folder, seed)
