"""The base class and the values of a stack's predictor; the runner does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np

OWN_CONFIG = "config"
"""The key under which a model.yaml's configuration file is among the weights."""


@dataclass
class Image:
    """A decoded image: `pixels` is (H, W, 3) uint8, C-contiguous, in the predictor's `color` order."""

    file: str
    pixels: np.ndarray


@dataclass
class Model:
    """What to load: absolute paths of weights and sources by key, validated settings, threads.

    `architecture` is the stack's own name of the network, for look-ups; `name` is the user's, only for messages.
    `digests` are the weights' sha256 where known; `config` is upstream's configuration file inside its sources, and
    `own_config` the path of the user's file that replaces it, or "".
    The runner applies `score_threshold` itself; a predictor may use it to save work.
    """

    name: str
    weights: Dict[str, str]
    settings: Dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    cache: str = ""
    sources: Dict[str, str] = field(default_factory=dict)
    digests: Dict[str, str] = field(default_factory=dict)
    config: str = ""
    score_threshold: Optional[float] = None
    architecture: str = ""

    def __post_init__(self) -> None:
        self.architecture = self.architecture or self.name

    @property
    def own_config(self) -> str:
        """Return the path of the configuration file that a model.yaml names, or ""."""
        return self.weights.get(OWN_CONFIG, "")


@dataclass
class CropMask:
    """A mask as a crop: `pixels` (h, w) bool, its upper left corner at column `x`, row `y` of the image."""

    x: int
    y: int
    pixels: np.ndarray


Masks = Union[np.ndarray, Sequence[Union[CropMask, Dict[str, Any]]]]


@dataclass
class Prediction:
    """The instances of one image, in the box order and class numbering that stack.yaml declares.

    A model that gives a probability per pixel (tasks binary-segmentation, manipulation-localization) sets
    `probability`, (H, W) in [0, 1] at the given image's size, and the runner makes the instances; with the setting
    keep_canvas also `canvas`, (h, w), the network's own mask before it was brought to the image's size, without
    padding. Otherwise:
    boxes (n, 4) float in pixels of the given image, exclusive right and lower edges; classes (n,) int; scores (n,)
    in [0, 1], any order; masks: (n, H, W) bool, or n CropMask, or n COCO compressed RLE dicts, or None for a
    model without masks (task object-detection), whose predictions then have none; attributes (n, A) float; image_score
    in [0, 1].
    """

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    masks: Optional[Masks] = None
    attributes: Optional[np.ndarray] = None
    image_score: Optional[float] = None
    probability: Optional[np.ndarray] = None
    canvas: Optional[np.ndarray] = None


class Predictor(ABC):
    """Base class of every stack's predictor; its attributes define what predict() receives.

    One without `load` or `predict` cannot be made: an image's smoke test calls Predictor().
    """

    color: str = "RGB"
    """Channel order of Image.pixels: "RGB" or "BGR"."""
    decoder: str = "pillow"
    """The library whose pixels the model expects: a key of orch_runner.decode.DECODERS."""
    max_batch: int = 1
    """The largest number of images per predict()."""
    framework: str = ""
    """The library that runs on the GPU: "torch", "tensorflow" or "onnxruntime"; "": all of them that are installed."""

    def probe(self) -> Any:
        """Run a kernel on the GPU before the model is loaded; return the GPU's name. Raises Fatal.

        Called only for the device "cuda". Override it for a framework that is not listed above.
        """
        from orch_runner.gpu.probe import probe

        return probe(self.framework)

    @staticmethod
    def make_random_weights(model: Model, folder: str, seed: int = 0) -> None:
        """Write random weights of `model`'s architecture into `folder`, under the file names of stack.yaml.

        For `orch selftest` without the published weights; the weights should lead to a few detections.
        `model` has name, settings and sources, but no weights.
        """
        raise NotImplementedError("this stack cannot make random weights")

    @abstractmethod
    def load(self, model: Model, device: str) -> None:
        """Load `model` on `device` ("cpu" or "cuda"); raise an error instead of using another device."""

    @abstractmethod
    def predict(self, images: List[Image]) -> List[Any]:
        """Predict a batch: one Prediction per image, or one raw result per image for `finish` to complete."""

    def finish(self, raw: Any, image: Image) -> Prediction:
        """Turn a raw result into a Prediction; called in threads while the next batch is predicted."""
        del image
        return raw  # type: ignore[no-any-return]
