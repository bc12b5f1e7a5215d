"""Make random weights of the published architectures, from the graphs without weights in structures/.

They are for tests without the published files; their detections mean nothing.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Tuple

import numpy as np
import onnx
from orch_runner.files import open_replacement

STRUCTURES = Path(__file__).parent / "structures"
FILES = {"facere": "facere_base.onnx", "facere+": "facere_plus.onnx"}
"""The name of each model's weights file, as in stack.yaml."""
KEPT = {"facere": "facere.onnx.gz", "facere+": "facere_plus.onnx.gz"}
WEIGHTLESS = "weights left out"
REGION = 7
"""Side of the box head's input of a region."""

# Without trained normalization, each block of the backbone would double the spread of its input.
LAST_OF_BLOCK = 0.25
GAINS: Tuple[Tuple[str, float], ...] = (
    ("/box_predictor/cls_score/", 12.0),
    ("/box_predictor/bbox_pred/", 0.3),
    ("/mask_fcn_logits/", 8.0),
    ("/rpn/head/bbox_pred/", 0.1),
    # Coarse levels get larger factors, or all proposals would be tiny.
    ("/backbone/fpn/layer_blocks.0/", 0.5),
    ("/backbone/fpn/layer_blocks.1/", 0.7),
    ("/backbone/fpn/layer_blocks.3/", 1.4),
)
"""Factors by a part of the name of the output that a weight is for."""
BACKGROUND = 24.0
"""Bias of the background: so high that only a few dozen regions of a photograph are not background."""
_CENTRE = np.float32([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def write_random_weights(model_name: str, folder: str, seed: int = 0) -> str:
    """Write the model's weights file into `folder`, equal bytes for equal seeds; return its path."""
    if model_name not in FILES:
        raise ValueError(f"unknown model {model_name!r}, known: {', '.join(FILES)}")
    with gzip.open(STRUCTURES / KEPT[model_name]) as stream:
        model = onnx.load_from_string(stream.read())
    random = np.random.Generator(np.random.PCG64(seed))
    outputs = {name: node.output[0] for node in reversed(model.graph.node) for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.doc_string == WEIGHTLESS:
            tensor.doc_string = ""
            tensor.raw_data = _make_values(tuple(tensor.dims), outputs[tensor.name], random).astype("<f4").tobytes()
    path = Path(folder) / FILES[model_name]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_replacement(path) as stream:
        stream.write(model.SerializeToString())
    return str(path)


def _make_values(shape: Tuple[int, ...], output: str, random: np.random.Generator) -> np.ndarray:
    """Return the weight for `output`: He's initialization, changed where that would give no detections."""
    if len(shape) == 1:
        values = np.zeros(shape, np.float32)
        values[0] = BACKGROUND if "/cls_score/" in output else 0
        return values
    fan_in = int(np.prod(shape[1:]))
    values = random.standard_normal(shape, np.float32)
    if "/cls_score/" in output:
        values[0] = 0
    if "/box_head/" in output:
        # Random filters give similar results for all regions; these only see differences from a region's mean.
        if len(shape) == 4:
            fan_in = shape[1]
            values *= _CENTRE
        else:
            cells = values.reshape(shape[0], -1, REGION * REGION)
            values = (cells - cells.mean(axis=2, keepdims=True)).reshape(shape)
    if "/mask_head/" in output or "/conv5_mask/" in output:
        # Filters that only blur make masks blobs, like trained ones, instead of noise.
        values[...] = values[:, :, :1, :1]
        fan_in *= shape[2] * shape[3]
    if shape[2:] == (1, 1) and shape[0] == 4 * shape[1]:
        values *= np.float32(LAST_OF_BLOCK)
    gain = next((factor for part, factor in GAINS if part in output), 1.0)
    return values * np.float32(gain * np.sqrt(2 / fan_in))
