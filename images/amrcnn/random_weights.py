"""Random weights of the published architectures, as checkpoints like the published ones.

They let the whole way be tried where the published files cannot be had. What they find means nothing.
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
"""Without the statistics that training brings, normalization does nothing: less than 1, or deep sums would explode."""
HEADS: Tuple[Tuple[Tuple[str, float], ...], ...] = (
    (("rpn_head/rpn-class", 1.0), ("rpn_head/rpn-box", 0.1)),
    (
        ("fast_rcnn_head/class-predict", 2.5),
        ("fast_rcnn_head/box-predict", 0.5),
        ("fast_rcnn_head/attribute-predict", 2.0),
    ),
    (("mask_head/mask_fcn_logits", 2.0),),
)
"""Last layers of the heads and the spread their outputs shall have, each group after what it depends on."""


def write_random_weights(model: Model, folder: str, seed: int = 0) -> str:
    """Write a checkpoint into the folder that stack.yaml names the model's weights by; the result is its prefix."""
    prefix = Path(folder) / MODELS[model.name].weights / NAME
    prefix.parent.mkdir(parents=True, exist_ok=True)
    graph = open_graph(model.name, model.sources[SOURCE], model.settings, model.cache)
    random = np.random.Generator(np.random.PCG64(seed))
    options = session_options(model.threads)
    # To optimize the graph takes longer than the three runs.
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    with graph.as_default(), tf.Session(graph=graph, config=options) as session:
        variables = {one.op.name: one for one in tf.global_variables()}
        _assign(session, [(one, _values(name, one.shape.as_list(), random)) for name, one in sorted(variables.items())])
        for group in HEADS:
            _spread(session, variables, group, random)
        saver = tf.get_collection(tf.GraphKeys.SAVERS)[0]
        saver.save(session, str(prefix), write_meta_graph=False)
    print(f"random weights of {model.name}: {prefix}", file=sys.stderr)
    return str(prefix)


def _assign(session: Any, values: List[Tuple[Any, np.ndarray]]) -> None:
    """Set variables, all in one run: each run of another part of so large a graph takes a tenth of a second."""
    session.run([one.initializer for one, _ in values], {one.initializer.inputs[1]: value for one, value in values})


def _values(name: str, shape: List[int], random: np.random.Generator) -> np.ndarray:
    kind = name.rpartition("/")[2]
    if kind == "kernel":
        fan_in = int(np.prod(shape[:-1]))
        return random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
    if kind in ("gamma", "moving_variance"):
        return np.full(shape, GAMMA if kind == "gamma" else 1, np.float32)
    return np.zeros(shape, np.float32)


def _spread(
    session: Any, variables: Dict[str, Any], layers: Tuple[Tuple[str, float], ...], random: np.random.Generator
) -> None:
    """Scale last layers so that their outputs on noise have zero mean and the spread wanted, channel by channel."""
    outputs = {name: session.graph.get_tensor_by_name(f"{name}/BiasAdd:0") for name, _ in layers}
    found = session.run(outputs, {f"{IMAGE}:0": _picture(random)})
    for name, wanted in layers:
        values = found[name].reshape(-1, found[name].shape[-1]).astype(np.float64)
        spread = wanted / np.maximum(values.std(axis=0), 1e-30)
        kernel, bias = variables[f"{name}/kernel"], variables[f"{name}/bias"]
        scaled = (kernel.eval(session) * spread).astype(np.float32)
        _assign(session, [(kernel, scaled), (bias, (-values.mean(axis=0) * spread).astype(np.float32))])


def _picture(random: np.random.Generator) -> np.ndarray:
    """Coarse noise, which is nearer to a photograph than fine noise."""
    coarse = random.integers(0, 256, (10, 10, 3), np.uint8)
    picture: np.ndarray = np.kron(coarse, np.ones((64, 64, 1), np.uint8))
    return picture
