"""Build upstream's network as one graph from uint8 pixels to detections in the image's pixels.

Upstream's modules are imported from the sources, never copied; they call one another by top-level names (utils, ops,
modeling, …), so their folders are on sys.path while a graph is built.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping

from settings import MODELS, add_defaults, make_overrides
from tf1 import tf

DETECTION = "models/official/detection"
IMAGE = "orch_image"
OUTPUTS = ("num_detections", "detection_boxes", "detection_classes", "detection_scores", "detection_attributes",
           "detection_masks")  # fmt: skip


def output_name(name: str) -> str:
    """Return the name of the tensor that holds an output."""
    return f"orch_{name}:0"


def build_network(model: str, source: str, settings: Mapping[str, Any], own_config: str = "") -> Any:
    """Build a graph with the placeholder IMAGE, (H, W, 3) uint8 RGB, its OUTPUTS, and a Saver in its collections.

    `own_config`: the path of a configuration file in place of the model's published one. Boxes are y1, x1, y2, x2 in
    the image's pixels, clipped only to the network's square input.
    """
    settings = add_defaults(settings)
    suppression = _use_suppression_op() if settings["nms"] == "op" else contextlib.nullcontext()
    with _suppress_warnings(), _extend_path(Path(source)), tf.Graph().as_default() as graph, suppression:
        image = tf.placeholder(tf.uint8, (None, None, 3), IMAGE)
        parameters = _make_parameters(own_config or config_path(model, source), settings)
        outputs = _build_outputs(parameters, image, settings["image_size"])
        for name in OUTPUTS:
            tf.identity(outputs[name], output_name(name).partition(":")[0])
        tf.add_to_collection(tf.GraphKeys.SAVERS, tf.train.Saver())
    return graph


def config_path(model: str, source: str) -> str:
    """Return the path of the model's published configuration file in upstream's sources."""
    return str(Path(source) / MODELS[model].config)


def _make_parameters(config: str, settings: Mapping[str, Any]) -> Any:
    from hyperparameters import params_dict  # type: ignore[import-not-found]
    from projects.fashionpedia.configs import factory  # type: ignore[import-not-found]

    parameters = factory.config_generator("attribute_mask_rcnn")
    parameters = params_dict.override_params_dict(parameters, config, is_strict=True)
    # bfloat16 is for TPUs only; upstream's inference disables it, too.
    parameters.override({"architecture": {"use_bfloat16": False}, **make_overrides(settings)}, is_strict=True)
    parameters.validate()
    parameters.lock()
    return parameters


def _build_outputs(parameters: Any, image: Any, size: int) -> Dict[str, Any]:
    """Build the outputs as upstream's inference script does, without decoding the file."""
    from dataloader import mode_keys  # type: ignore[import-not-found]
    from projects.fashionpedia.modeling import factory  # type: ignore[import-not-found]
    from utils import input_utils  # type: ignore[import-not-found]

    sides = [size, size]
    resized, info = input_utils.resize_and_crop_image(input_utils.normalize_image(image), sides, sides, 1.0, 1.0)
    resized.set_shape([size, size, 3])
    infos = tf.expand_dims(info, 0)
    network = factory.model_generator(parameters)
    outputs: Dict[str, Any] = network.build_outputs(
        tf.reshape(resized, [1, size, size, 3]), {"image_info": infos}, mode=mode_keys.PREDICT
    )
    outputs["detection_boxes"] /= tf.tile(infos[:, 2:3, :], [1, 1, 2])
    return outputs


@contextlib.contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppress the dozens of deprecation warnings of upstream's code, which cannot be fixed here."""
    level = tf.logging.get_verbosity()
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tf.logging.set_verbosity(level)


@contextlib.contextmanager
def _extend_path(source: Path) -> Iterator[None]:
    folders = [str(source / part) for part in (DETECTION, "models", "models/official/efficientnet")]
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


@contextlib.contextmanager
def _use_suppression_op() -> Iterator[None]:
    """Replace upstream's per-class suppression, a loop of a hundred operations, with TensorFlow's one operation.

    46 such loops are most of the graph. On a CPU the results are bitwise equal; the setting `nms` restores upstream's
    loop, for comparisons on other devices.
    """
    loop = tf.image.non_max_suppression_padded
    tf.image.non_max_suppression_padded = _suppress
    try:
        yield
    finally:
        tf.image.non_max_suppression_padded = loop


def _suppress(boxes: Any, scores: Any, limit: Any, iou_threshold: float, score_threshold: float, **others: Any) -> Any:
    return tf.raw_ops.NonMaxSuppressionV4(
        boxes=boxes,
        scores=scores,
        max_output_size=limit,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        pad_to_max_output_size=others.get("pad_to_max_output_size", False),
        name=others.get("name"),
    )
