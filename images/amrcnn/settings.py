"""The models and settings of this stack, as in stack.yaml, which is not part of images. Imports no TensorFlow."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple

SOURCE = "tpu"
"""Key of the sources."""
WEIGHTS = "checkpoint"
"""Key of every model's weights."""
STRIDE = 128
"""Stride of the coarsest level; image sizes are multiples of it."""


class Published(NamedTuple):
    """A model's configuration file inside upstream's sources, and its weights folder."""

    config: str
    weights: str


_CONFIGS = "models/official/detection/projects/fashionpedia/configs/yaml"
MODELS = {
    "amrcnn-r50-fpn": Published(f"{_CONFIGS}/r50fpn_amrcnn.yaml", "fashionpedia-r50-fpn"),
    "amrcnn-spine": Published(f"{_CONFIGS}/spinenet143_amrcnn.yaml", "fashionpedia-spinenet-143"),
}
DEFAULTS: Dict[str, Any] = {
    "image_size": 640,
    "nms": "op",
    "postprocess.score_threshold": 0.05,
    "postprocess.nms_iou_threshold": 0.5,
    "postprocess.max_total_size": 100,
    "postprocess.pre_nms_num_boxes": 1000,
}
"""Names with a dot are upstream's parameters."""


def add_defaults(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Return all settings. Raises ValueError for an unknown one or a wrong value."""
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}")
    complete = {**DEFAULTS, **settings}
    if complete["nms"] not in ("op", "upstream"):
        raise ValueError(f"nms is {complete['nms']!r}, must be op or upstream")
    size = complete["image_size"]
    if size < STRIDE or size % STRIDE:
        raise ValueError(f"image_size is {size}, must be a multiple of {STRIDE}")
    return complete


def make_overrides(settings: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Return the settings with a dot as upstream's parameters expect them: by group, then by name."""
    changes: Dict[str, Dict[str, Any]] = {}
    for name, value in settings.items():
        group, dot, field = name.partition(".")
        if dot:
            changes.setdefault(group, {})[field] = value
    return changes
