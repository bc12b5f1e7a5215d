"""Remove the loop that pastes masks from an exported Mask R-CNN.

torchvision's export ends in a Loop that enlarges one mask after another to the size of the image and appends it to all
earlier ones: time and memory grow with the square of the number of instances. The cut graph outputs the loop's small
inputs: the network's masks with a border of one pixel, and the boxes grown to match, in whole pixels. paste.py does the
loop's work.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional, Set

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

BOXES, LABELS, SCORES, MASKS = range(4)
RESIZE = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
"""The attributes that paste.py reproduces."""


class UnexpectedGraph(ValueError):
    """The graph does not end as expected; the message names the difference."""


class Loop(NamedTuple):
    """The pasting loop: its node, and the names of the (N, 1, m, m) masks and (N, 4) int64 boxes that it reads."""

    node: NodeProto
    masks: str
    boxes: str


def find_loop(graph: GraphProto) -> Loop:
    """Return the loop that makes the masks' output. Raises UnexpectedGraph."""
    if len(graph.output) != 4:
        raise UnexpectedGraph(f"it has {len(graph.output)} outputs, not boxes, labels, scores, masks")
    makers = _map_makers(graph)
    last = makers.get(graph.output[MASKS].name)
    if last is None or last.op_type != "Unsqueeze":
        raise UnexpectedGraph(f"its masks are made by {_name_type(last)}, not Unsqueeze")
    loop = makers.get(last.input[0])
    if loop is None or loop.op_type != "Loop":
        raise UnexpectedGraph(f"its masks are made by {_name_type(loop)}, not by a Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    if len(loop.output) != 1 or len(body.input) != 3 or len(body.output) != 2:
        raise UnexpectedGraph("its loop carries more than the masks pasted so far")
    inside = _map_makers(body)
    enlarged = _find_resize(body)
    read = [node.input[0] for node in body.node if node.op_type == "Gather" and node.input[1] == body.input[0].name]
    masks = [name for name in read if _depends_on(inside, enlarged.input[0], name)]
    boxes = [name for name in read if name not in masks]
    if len(masks) != 1 or len(boxes) != 1 or not {*masks, *boxes} <= set(makers):
        raise UnexpectedGraph("its loop does not take one mask and one box at a time")
    return Loop(loop, masks[0], boxes[0])


def cut(model: ModelProto) -> None:
    """Cut the loop off: the outputs become boxes, labels, scores, masks (N, 1, m, m), grown boxes (N, 4) int64.

    Changes the model in place. Raises UnexpectedGraph before any change.
    """
    graph = model.graph
    loop = find_loop(graph)
    del graph.output[MASKS:]
    graph.output.append(helper.make_tensor_value_info(loop.masks, TensorProto.FLOAT, ["instances", 1, None, None]))
    graph.output.append(helper.make_tensor_value_info(loop.boxes, TensorProto.INT64, ["instances", 4]))
    _prune(graph, [output.name for output in graph.output], {value.name for value in graph.input})


def paste_graph(model: ModelProto) -> ModelProto:
    """Return the loop as a separate model: inputs image (only its size matters), masks, boxes; the loop's output.

    It serves to check paste.py, and has no weights. Raises UnexpectedGraph.
    """
    loop = find_loop(model.graph)
    image = model.graph.input[0]
    inputs = [
        helper.make_tensor_value_info(image.name, TensorProto.FLOAT, [1, 3, None, None]),
        helper.make_tensor_value_info(loop.masks, TensorProto.FLOAT, [None, 1, None, None]),
        helper.make_tensor_value_info(loop.boxes, TensorProto.INT64, [None, 4]),
    ]
    given = {value.name for value in inputs}
    nodes = _find_needed(model.graph, [loop.node.output[0]], given)
    names = {name for node in nodes for name in _list_inputs(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in names]
    output = helper.make_tensor_value_info(loop.node.output[0], TensorProto.FLOAT, [None, None, None])
    graph = helper.make_graph(nodes, "paste", inputs, [output], kept)
    return helper.make_model(graph, ir_version=model.ir_version, opset_imports=model.opset_import)


def resize_graph() -> bytes:
    """Return a model that enlarges a (1, 1, m, m) mask to the input `sizes` as the loop does."""
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, None, None])
    sizes = helper.make_tensor_value_info("sizes", TensorProto.INT64, [4])
    output = helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, [1, 1, None, None])
    node = helper.make_node("Resize", ["mask", "", "", "sizes"], ["enlarged"], **RESIZE)
    graph = helper.make_graph([node], "resize", [mask, sizes], [output])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(model.SerializeToString())


def _find_resize(body: GraphProto) -> NodeProto:
    """Return the loop's Resize, which must have the attributes that paste.py reproduces. Raises UnexpectedGraph."""
    resizes = [node for node in body.node if node.op_type == "Resize"]
    if len(resizes) != 1:
        raise UnexpectedGraph(f"its loop has {len(resizes)} Resize, not one")
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in resizes[0].attribute}
    for name, expected in RESIZE.items():
        value = given.get(name, b"").decode()
        if value != expected:
            raise UnexpectedGraph(f"its loop resizes with {name} {value!r}, not {expected!r}")
    return resizes[0]


def _map_makers(graph: GraphProto) -> Dict[str, NodeProto]:
    """Return the node that makes each value."""
    return {name: node for node in graph.node for name in node.output}


def _name_type(node: Optional[NodeProto]) -> str:
    return "nothing" if node is None else node.op_type


def _depends_on(makers: Dict[str, NodeProto], value: str, source: str) -> bool:
    """Return whether `value` is `source` or made from it."""
    seen: Set[str] = set()
    todo = [value]
    while todo:
        name = todo.pop()
        if name == source:
            return True
        if name not in seen and name in makers:
            todo.extend(makers[name].input)
        seen.add(name)
    return False


def _list_inputs(node: NodeProto) -> Set[str]:
    """Return all values that a node reads, including those that its subgraphs read from outside."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            made = {value.name for value in attribute.g.input}
            for inner in attribute.g.node:
                names |= _list_inputs(inner) - made
                made.update(inner.output)
            names |= {output.name for output in attribute.g.output} - made
    return names - {""}


def _find_needed(graph: GraphProto, outputs: Iterable[str], given: Set[str]) -> List[NodeProto]:
    """Return the nodes, in order, that make `outputs` from `given` and the initializers."""
    wanted = set(outputs)
    needed: List[NodeProto] = []
    for node in reversed(graph.node):
        if wanted & (set(node.output) - given):
            needed.append(node)
            wanted |= _list_inputs(node)
    return needed[::-1]


def _prune(graph: GraphProto, outputs: Iterable[str], given: Set[str]) -> None:
    """Remove the nodes and initializers that `outputs` do not need."""
    outputs = list(outputs)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in _find_needed(graph, outputs, given)]
    names = {name for node in nodes for name in _list_inputs(node)} | set(outputs)
    del graph.node[:]
    graph.node.extend(nodes)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in names:
            del graph.initializer[index]
