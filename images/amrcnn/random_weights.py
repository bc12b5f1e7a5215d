"""Make random checkpoints of the published architectures, for tests without the published files.

Their detections mean nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from device import session_options
from metagraph import open_graph
from network import IMAGE
from orch_runner.predictor import Model
from settings import MODELS, SOURCE
from tf1 import tf

NAME = "model.ckpt-0"
GAMMA = 0.5
"""Untrained normalization does not scale: a factor below 1 keeps sums of deep layers finite."""
HEADS: Tuple[Tuple[Tuple[str, float], ...], ...] = (
    (("rpn_head/rpn-class", 1.0), ("rpn_head/rpn-box", 0.1)),
    (
        ("fast_rcnn_head/class-predict", 2.5),
        ("fast_rcnn_head/box-predict", 0.5),
        ("fast_rcnn_head/attribute-predict", 2.0),
    ),
    (("mask_head/mask_fcn_logits", 2.0),),
)
"""Last layers of the heads and the deviation of their outputs, each group after those it depends on."""


def write_random_weights(model: Model, folder: str, seed: int = 0) -> str:
    """Write a checkpoint into the model's weights folder of stack.yaml; return its prefix."""
    prefix = Path(folder) / MODELS[model.architecture].weights / NAME
    prefix.parent.mkdir(parents=True, exist_ok=True)
    graph = open_graph(model.architecture, model.sources[SOURCE], model.settings, model.cache, model.own_config)
    random = np.random.Generator(np.random.PCG64(seed))
    options = session_options(model.threads)
    # Optimizing the graph takes longer than the three runs.
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    with graph.as_default(), tf.Session(graph=graph, config=options) as session:
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        shapes = {name: variable.shape.as_list() for name, variable in variables.items()}
        _assign(session, [(variables[name], _make_values(name, shapes[name], random)) for name in sorted(variables)])
        for group in HEADS:
            _scale_outputs(session, variables, group, random)
        saver = tf.get_collection(tf.GraphKeys.SAVERS)[0]
        saver.save(session, str(prefix), write_meta_graph=False)
    print(f"random weights of {model.name}: {prefix}", file=sys.stderr)
    return str(prefix)


def _assign(session: Any, values: List[Tuple[Any, np.ndarray]]) -> None:
    """Set variables in one run: each separate run of a part of this large graph takes a tenth of a second."""
    operations = [variable.initializer for variable, _ in values]
    session.run(operations, {variable.initializer.inputs[1]: value for variable, value in values})


def _make_values(name: str, shape: List[int], random: np.random.Generator) -> np.ndarray:
    kind = name.rpartition("/")[2]
    if kind == "kernel":
        fan_in = int(np.prod(shape[:-1]))
        return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
    if kind in ("gamma", "moving_variance"):
        return np.full(shape, GAMMA if kind == "gamma" else 1, np.float32)
    return np.zeros(shape, np.float32)


def _scale_outputs(
    session: Any, variables: Dict[str, Any], layers: Tuple[Tuple[str, float], ...], random: np.random.Generator
) -> None:
    """Scale last layers so that each channel of their outputs on noise has zero mean and the given deviation."""
    outputs = {name: session.graph.get_tensor_by_name(f"{name}/BiasAdd:0") for name, _ in layers}
    results = session.run(outputs, {f"{IMAGE}:0": _draw_noise(random)})
    for name, deviation in layers:
        values = results[name].reshape(-1, results[name].shape[-1]).astype(np.float64)
        scale = deviation / np.maximum(values.std(axis=0), 1e-30)
        kernel, bias = variables[f"{name}/kernel"], variables[f"{name}/bias"]
        scaled = (kernel.eval(session) * scale).astype(np.float32)
        _assign(session, [(kernel, scaled), (bias, (-values.mean(axis=0) * scale).astype(np.float32))])


def _draw_noise(random: np.random.Generator) -> np.ndarray:
    """Return coarse noise, which is more like a photograph than fine noise."""
    coarse = random.integers(0, 256, (10, 10, 3), np.uint8)
    picture: np.ndarray = np.kron(coarse, np.ones((64, 64, 1), np.uint8))
    return picture
