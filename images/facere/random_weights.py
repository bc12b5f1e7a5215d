"""Random weights of the published architectures, from the graphs without weights in structures/.

They let the whole way be tried where the published files cannot be had. What they find means nothing.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Tuple

import numpy as np
import onnx

STRUCTURES = Path(__file__).parent / "structures"
FILES = {"facere": "facere_base.onnx", "facere+": "facere_plus.onnx"}
"""What each model's weights file is called, as in stack.yaml."""
KEPT = {"facere": "facere.onnx.gz", "facere+": "facere_plus.onnx.gz"}
WEIGHTLESS = "weights left out"
REGION = 7
"""Side of what the box head sees of a region."""

# Without the normalization that training brings, each block of the backbone would double the spread of its input.
LAST_OF_BLOCK = 0.25
GAINS: Tuple[Tuple[str, float], ...] = (
    ("/box_predictor/cls_score/", 12.0),
    ("/box_predictor/bbox_pred/", 0.3),
    ("/mask_fcn_logits/", 8.0),
    ("/rpn/head/bbox_pred/", 0.1),
    # Coarse levels speak louder, or all proposals would be tiny.
    ("/backbone/fpn/layer_blocks.0/", 0.5),
    ("/backbone/fpn/layer_blocks.1/", 0.7),
    ("/backbone/fpn/layer_blocks.3/", 1.4),
)
"""Factors by a part of the name of what a weight's node makes."""
BACKGROUND = 24.0
"""A region is background unless a class says more: so high that a few dozen regions of a photograph are not."""
_CENTRE = np.float32([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def write_random_weights(model_name: str, folder: str, seed: int = 0) -> str:
    """Write the model's weights file into `folder`, the same bytes for the same seed; the result is its path."""
    if model_name not in FILES:
        raise ValueError(f"there is no model {model_name!r}, only {', '.join(FILES)}")
    with gzip.open(STRUCTURES / KEPT[model_name]) as stream:
        model = onnx.load_from_string(stream.read())
    random = np.random.Generator(np.random.PCG64(seed))
    makes = {name: node.output[0] for node in reversed(model.graph.node) for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.doc_string == WEIGHTLESS:
            tensor.doc_string = ""
            tensor.raw_data = _values(tuple(tensor.dims), makes[tensor.name], random).astype("<f4").tobytes()
    path = Path(folder) / FILES[model_name]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(model.SerializeToString())
    os.replace(aside, path)
    return str(path)


def _values(shape: Tuple[int, ...], makes: str, random: np.random.Generator) -> np.ndarray:
    """Values of the weight that makes the value named: He's initialization, changed where that finds nothing."""
    if len(shape) == 1:
        values = np.zeros(shape, np.float32)
        values[0] = BACKGROUND if "/cls_score/" in makes else 0
        return values
    fan_in = int(np.prod(shape[1:]))
    values = random.standard_normal(shape, np.float32)
    if "/cls_score/" in makes:
        values[0] = 0
    if "/box_head/" in makes:
        # All regions look alike to random filters. These see how a region differs from its own mean, nothing else.
        if len(shape) == 4:
            fan_in = shape[1]
            values *= _CENTRE
        else:
            cells = values.reshape(shape[0], -1, REGION * REGION)
            values = (cells - cells.mean(axis=2, keepdims=True)).reshape(shape)
    if "/mask_head/" in makes or "/conv5_mask/" in makes:
        # Filters that only blur: masks come out as blobs, as trained ones do, and not as noise.
        values[...] = values[:, :, :1, :1]
        fan_in *= shape[2] * shape[3]
    if shape[2:] == (1, 1) and shape[0] == 4 * shape[1]:
        values *= np.float32(LAST_OF_BLOCK)
    gain = next((factor for part, factor in GAINS if part in makes), 1.0)
    return values * np.float32(gain * np.sqrt(2 / fan_in))
