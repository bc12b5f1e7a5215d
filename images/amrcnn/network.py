"""Upstream's network as one graph: from uint8 pixels to detections in the image's own pixels.

Upstream's modules are imported from the sources, never copied; they call one another by top-level names (utils, ops,
modeling, …), so their folders go onto the path, and only while a graph has to be built.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping

from settings import MODELS, overrides, with_defaults
from tf1 import tf

DETECTION = "models/official/detection"
IMAGE = "orch_image"
OUTPUTS = ("num_detections", "detection_boxes", "detection_classes", "detection_scores", "detection_attributes",
           "detection_masks")  # fmt: skip


def output_name(name: str) -> str:
    """Name of the tensor that holds an output."""
    return f"orch_{name}:0"


def build_network(model: str, source: str, settings: Mapping[str, Any]) -> Any:
    """A graph with the placeholder IMAGE, (H, W, 3) uint8 RGB, OUTPUTS for it, and a Saver in its collections.

    Boxes are y1, x1, y2, x2 in the image's pixels, clipped only to the square that the network sees.
    """
    settings = with_defaults(settings)
    swap = _op_for_suppression() if settings["nms"] == "op" else contextlib.nullcontext()
    with _quiet(), _importable(Path(source)), tf.Graph().as_default() as graph, swap:
        image = tf.placeholder(tf.uint8, (None, None, 3), IMAGE)
        outputs = _outputs(_parameters(model, Path(source), settings), image, settings["image_size"])
        for name in OUTPUTS:
            tf.identity(outputs[name], output_name(name).partition(":")[0])
        tf.add_to_collection(tf.GraphKeys.SAVERS, tf.train.Saver())
    return graph


def _parameters(model: str, source: Path, settings: Mapping[str, Any]) -> Any:
    from hyperparameters import params_dict  # type: ignore[import-not-found]
    from projects.fashionpedia.configs import factory  # type: ignore[import-not-found]

    parameters = factory.config_generator("attribute_mask_rcnn")
    config = str(source / MODELS[model].config)
    parameters = params_dict.override_params_dict(parameters, config, is_strict=True)
    # bfloat16 is for TPUs alone; upstream's inference switches it off as well.
    parameters.override({"architecture": {"use_bfloat16": False}, **overrides(settings)}, is_strict=True)
    parameters.validate()
    parameters.lock()
    return parameters


def _outputs(parameters: Any, image: Any, size: int) -> Dict[str, Any]:
    """As upstream's inference script has it, but for the decoding of the file."""
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
def _quiet() -> Iterator[None]:
    """Without the dozens of warnings that what upstream calls is deprecated: nobody can do anything about it here."""
    level = tf.logging.get_verbosity()
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tf.logging.set_verbosity(level)


@contextlib.contextmanager
def _importable(source: Path) -> Iterator[None]:
    folders = [str(source / part) for part in (DETECTION, "models", "models/official/efficientnet")]
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


@contextlib.contextmanager
def _op_for_suppression() -> Iterator[None]:
    """Let upstream's per-class suppression be TensorFlow's operation instead of a loop of a hundred operations.

    46 such loops are most of the graph. The operation's results are the same bits on a CPU; the setting `nms` brings
    upstream's own back for a comparison elsewhere.
    """
    loop = tf.image.non_max_suppression_padded
    tf.image.non_max_suppression_padded = _suppress
    try:
        yield
    finally:
        tf.image.non_max_suppression_padded = loop


def _suppress(boxes: Any, scores: Any, most: Any, iou_threshold: float, score_threshold: float, **others: Any) -> Any:
    return tf.raw_ops.NonMaxSuppressionV4(
        boxes=boxes,
        scores=scores,
        max_output_size=most,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        pad_to_max_output_size=others.get("pad_to_max_output_size", False),
        name=others.get("name"),
    )
