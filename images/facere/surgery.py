"""Cuts the loop that pastes masks out of an exported Mask R-CNN.

torchvision's export ends in a Loop which enlarges one mask after the other to the size of the image and appends it to
all the earlier ones: time and memory grow with the square of the number of instances. The cut graph gives what goes
into the loop, which is small: the masks as the network makes them, with a border of one pixel, and the boxes grown by
as much, in whole pixels. paste.py does the loop's work.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional, Set

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

BOXES, LABELS, SCORES, MASKS = range(4)
RESIZE = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
"""What paste.py reproduces."""


class UnexpectedGraph(ValueError):
    """The graph does not end as expected; the message says where it differs."""


class Loop(NamedTuple):
    """The loop that pastes: the node, and the names of the (N, 1, m, m) masks and (N, 4) int64 boxes it reads."""

    node: NodeProto
    masks: str
    boxes: str


def find_loop(graph: GraphProto) -> Loop:
    """The loop at the end of the masks' output. Raises UnexpectedGraph."""
    if len(graph.output) != 4:
        raise UnexpectedGraph(f"it has {len(graph.output)} outputs, not boxes, labels, scores, masks")
    makers = _makers(graph)
    last = makers.get(graph.output[MASKS].name)
    if last is None or last.op_type != "Unsqueeze":
        raise UnexpectedGraph(f"its masks come out of {_kind(last)}, not Unsqueeze")
    loop = makers.get(last.input[0])
    if loop is None or loop.op_type != "Loop":
        raise UnexpectedGraph(f"its masks come out of {_kind(loop)}, not out of a loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    if len(loop.output) != 1 or len(body.input) != 3 or len(body.output) != 2:
        raise UnexpectedGraph("its loop carries more than the masks pasted so far")
    inside = _makers(body)
    enlarged = _only_resize(body)
    read = [node.input[0] for node in body.node if node.op_type == "Gather" and node.input[1] == body.input[0].name]
    masks = [name for name in read if _reads(inside, enlarged.input[0], name)]
    boxes = [name for name in read if name not in masks]
    if len(masks) != 1 or len(boxes) != 1 or not {*masks, *boxes} <= set(makers):
        raise UnexpectedGraph("its loop does not take one mask and one box at a time")
    return Loop(loop, masks[0], boxes[0])


def cut(model: ModelProto) -> None:
    """End the model before its loop: boxes, labels, scores, masks (N, 1, m, m), boxes grown (N, 4) int64.

    The model is changed in place. Raises UnexpectedGraph, leaving it as it was.
    """
    graph = model.graph
    loop = find_loop(graph)
    del graph.output[MASKS:]
    graph.output.append(helper.make_tensor_value_info(loop.masks, TensorProto.FLOAT, ["instances", 1, None, None]))
    graph.output.append(helper.make_tensor_value_info(loop.boxes, TensorProto.INT64, ["instances", 4]))
    _keep(graph, [output.name for output in graph.output], {value.name for value in graph.input})


def paste_graph(model: ModelProto) -> ModelProto:
    """The loop alone, as a model of its own: inputs image (its size matters only), masks, boxes; the loop's output.

    What paste.py does is compared with it. The weights are not in it. Raises UnexpectedGraph.
    """
    loop = find_loop(model.graph)
    image = model.graph.input[0]
    inputs = [
        helper.make_tensor_value_info(image.name, TensorProto.FLOAT, [1, 3, None, None]),
        helper.make_tensor_value_info(loop.masks, TensorProto.FLOAT, [None, 1, None, None]),
        helper.make_tensor_value_info(loop.boxes, TensorProto.INT64, [None, 4]),
    ]
    given = {value.name for value in inputs}
    nodes = _needed(model.graph, [loop.node.output[0]], given)
    names = {name for node in nodes for name in _inputs(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in names]
    output = helper.make_tensor_value_info(loop.node.output[0], TensorProto.FLOAT, [None, None, None])
    graph = helper.make_graph(nodes, "paste", inputs, [output], kept)
    return helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)


def resize_graph() -> bytes:
    """A model that enlarges a (1, 1, m, m) mask to the (1, 1, h, w) it is told, as the loop does."""
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, None, None])
    sizes = helper.make_tensor_value_info("sizes", TensorProto.INT64, [4])
    output = helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, [1, 1, None, None])
    node = helper.make_node("Resize", ["mask", "", "", "sizes"], ["enlarged"], **RESIZE)
    graph = helper.make_graph([node], "resize", [mask, sizes], [output])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def _only_resize(body: GraphProto) -> NodeProto:
    """The loop's Resize, which must be of the kind that paste.py reproduces."""
    found = [node for node in body.node if node.op_type == "Resize"]
    if len(found) != 1:
        raise UnexpectedGraph(f"its loop has {len(found)} Resize, not one")
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in found[0].attribute}
    for name, wanted in RESIZE.items():
        value = given.get(name, b"").decode()
        if value != wanted:
            raise UnexpectedGraph(f"its loop resizes with {name} {value!r}, not {wanted!r}")
    return found[0]


def _makers(graph: GraphProto) -> Dict[str, NodeProto]:
    """The node that makes each value."""
    return {name: node for node in graph.node for name in node.output}


def _kind(node: Optional[NodeProto]) -> str:
    return "nothing" if node is None else node.op_type


def _reads(makers: Dict[str, NodeProto], value: str, wanted: str) -> bool:
    """Whether `value` is `wanted`, or made from it."""
    seen: Set[str] = set()
    todo = [value]
    while todo:
        name = todo.pop()
        if name == wanted:
            return True
        if name not in seen and name in makers:
            todo.extend(makers[name].input)
        seen.add(name)
    return False


def _inputs(node: NodeProto) -> Set[str]:
    """All values a node reads, those its subgraphs take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            made = {value.name for value in attribute.g.input}
            for inner in attribute.g.node:
                names |= _inputs(inner) - made
                made.update(inner.output)
            names |= {output.name for output in attribute.g.output} - made
    return names - {""}


def _needed(graph: GraphProto, outputs: Iterable[str], given: Set[str]) -> List[NodeProto]:
    """The nodes, in their order, that make `outputs` out of `given` and the initializers."""
    wanted = set(outputs)
    found: List[NodeProto] = []
    for node in reversed(graph.node):
        if wanted & (set(node.output) - given):
            found.append(node)
            wanted |= _inputs(node)
    return found[::-1]


def _keep(graph: GraphProto, outputs: Iterable[str], given: Set[str]) -> None:
    """Drop the nodes and initializers that `outputs` do not need."""
    outputs = list(outputs)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in _needed(graph, outputs, given)]
    names = {name for node in nodes for name in _inputs(node)} | set(outputs)
    del graph.node[:]
    graph.node.extend(nodes)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in names:
            del graph.initializer[index]
