"""Checks of the stack facere that need its own packages; tests/conformance/test_facere.py runs it in its environment.

Usage: python check.py RUNNER_FOLDER STACK_FOLDER WORK_FOLDER MODEL, prints one JSON object. PYTHONPATH is not needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # type: ignore[import-not-found]
from onnx import TensorProto, helper

RUNNER, STACK, WORK, MODEL = sys.argv[1:5]
sys.path[:0] = [STACK, RUNNER]

from graphs import cut_graph  # type: ignore[import-not-found]  # noqa: E402
from orch_runner import predictor as runner  # noqa: E402
from orch_runner.helpers.onnx_session import open_session  # noqa: E402
from orch_runner.rle import encode_masks  # noqa: E402
from paste import THRESHOLD, Paster  # type: ignore[import-not-found]  # noqa: E402
from predictor import Predictor  # type: ignore[import-not-found]  # noqa: E402
from random_weights import write_random_weights  # type: ignore[import-not-found]  # noqa: E402
from surgery import UnexpectedGraph, find_loop  # type: ignore[import-not-found]  # noqa: E402


def naive_paste(mask: Any, box: list[int], height: int, width: int) -> Any:
    """The image-sized probabilities of one mask, pixel by pixel in float64: bilinear, centres aligned."""
    full = np.zeros((height, width))
    tall, broad = max(box[3] - box[1] + 1, 1), max(box[2] - box[0] + 1, 1)
    size = mask.shape[0]
    for row in range(max(box[1], 0), min(box[3] + 1, height)):
        for column in range(max(box[0], 0), min(box[2] + 1, width)):
            y = np.clip((row - box[1] + 0.5) * size / tall - 0.5, 0, size - 1)
            x = np.clip((column - box[0] + 0.5) * size / broad - 0.5, 0, size - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, size - 1), min(left + 1, size - 1)
            upper = mask[top, left] * (1 - (x - left)) + mask[top, right] * (x - left)
            lower = mask[low, left] * (1 - (x - left)) + mask[low, right] * (x - left)
            full[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return full


def check_paste() -> dict[str, int]:
    """Pasted masks against the naive ones: pixels that differ where rounding cannot explain it."""
    height, width = 31, 44
    random = np.random.default_rng(3)
    boxes = [[2, 3, 20, 18], [0, 0, width - 1, height - 1], [-3, -2, 12, 40], [30, 20, width + 2, height + 3]]
    boxes += [[7, 7, 7, 7], [-5, 10, width + 5, 11], [-9, -9, -2, -2], [width, 0, width + 5, 9]]
    masks = random.random((len(boxes), 1, 30, 30), np.float32)
    wrong = 0
    for crop, mask, box in zip(Paster().paste(masks, np.array(boxes), height, width), masks, boxes, strict=True):
        expected = naive_paste(mask[0].astype(np.float64), box, height, width)
        found = np.zeros((height, width), bool)
        rows, columns = crop.pixels.shape
        found[crop.y : crop.y + rows, crop.x : crop.x + columns] = crop.pixels
        wrong += int(((found != (expected > THRESHOLD)) & (abs(expected - THRESHOLD) > 1e-5)).sum())
    return {"masks": len(boxes), "wrong": wrong}


def changed(model: onnx.ModelProto, change: Any) -> str:
    """Why a changed copy of the graph is refused."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    change(copy.graph)
    try:
        find_loop(copy.graph)
    except UnexpectedGraph as error:
        return str(error)
    return "not refused"


def body_of(graph: onnx.GraphProto) -> onnx.GraphProto:
    """The body of the graph's loop, to be changed."""
    loop = next(node for node in graph.node if node.op_type == "Loop")
    return next(attribute.g for attribute in loop.attribute if attribute.name == "body")


def check_refusals(model: onnx.ModelProto) -> dict[str, str]:
    """What is said of graphs of another shape."""

    def no_loop(graph: onnx.GraphProto) -> None:
        graph.node[-1].op_type = "Identity"

    def nearest(graph: onnx.GraphProto) -> None:
        resize = next(node for node in body_of(graph).node if node.op_type == "Resize")
        next(one for one in resize.attribute if one.name == "mode").s = b"nearest"

    def two(graph: onnx.GraphProto) -> None:
        body = body_of(graph)
        body.node.append(next(node for node in body.node if node.op_type == "Resize"))

    def three_outputs(graph: onnx.GraphProto) -> None:
        del graph.output[3:]

    return {change.__name__: changed(model, change) for change in (no_loop, nearest, two, three_outputs)}


def check_other_paste(model: onnx.ModelProto) -> str:
    """What is said when the loop has the right shape, but pastes one pixel further."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    body = body_of(copy.graph)
    for node in body.node:
        if list(node.output) == ["w"]:
            body.node.remove(node)
            break
    two = helper.make_node("Constant", [], ["two"], value=helper.make_tensor("", TensorProto.INT64, [1], [2]))
    body.node.insert(0, two)
    at = next(index for index, one in enumerate(body.node) if node.input[0] in one.output)
    body.node.insert(at + 1, helper.make_node("Add", [node.input[0], "two"], ["w"]))
    path = Path(WORK) / "other.onnx"
    onnx.save(copy, path)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        graph, was_cut = cut_graph(str(path), "")
    path.unlink()
    return f"{graph == str(path)} {was_cut} {said.getvalue()}"


def loaded(path: str, paste: str) -> Any:
    """A predictor with the weights."""
    predictor = Predictor()
    predictor.load(runner.Model(MODEL, {"onnx": path}, {"paste": paste}, 2, str(Path(WORK) / "cache")), "cpu")
    return predictor


def check_equality(path: str) -> list[dict[str, Any]]:
    """Both ways of pasting on a few images."""
    ways = [loaded(path, "cut"), loaded(path, "graph")]
    random = np.random.default_rng(5)
    results = []
    for height, width in ((240, 330), (610, 200), (1, 1), (2, 90)):
        coarse = random.integers(0, 256, (max(height // 24, 1), max(width // 24, 1), 3), np.uint8)
        pixels = np.kron(coarse, np.ones((24, 24, 1), np.uint8))[:height, :width]
        pixels = np.ascontiguousarray(np.resize(pixels, (height, width, 3)))
        image = runner.Image("made-up", pixels)
        raws = [way.predict([image])[0] for way in ways]
        predictions = [way.finish(raw, image) for way, raw in zip(ways, raws, strict=True)]
        count = len(raws[0].scores)
        masks = [encode_masks(one.masks, np.arange(count), height, width) for one in predictions]
        same = [one.tobytes() == other.tobytes() for one, other in zip(raws[0][:3], raws[1][:3], strict=True)]
        results.append({"size": [height, width], "instances": count, "same": all(same), "masks": masks[0] == masks[1]})
    return results


def check_nothing_found(model: onnx.ModelProto) -> list[int]:
    """Masks by both ways where all is background."""
    path = Path(WORK) / "silent.onnx"
    for tensor in model.graph.initializer:
        if tensor.name == "roi_heads.box_predictor.cls_score.bias":
            tensor.raw_data = np.array([1e6] + [0] * (tensor.dims[0] - 1), "<f4").tobytes()
    onnx.save(model, path)
    image = runner.Image("made-up", np.full((60, 80, 3), 90, np.uint8))
    found = []
    for paste in ("cut", "graph"):
        predictor = Predictor()
        predictor.load(runner.Model(MODEL, {"onnx": str(path)}, {"paste": paste}, 2), "cpu")
        prediction = predictor.finish(predictor.predict([image])[0], image)
        found += [len(prediction.masks), len(prediction.scores)]
    path.unlink()
    return found


def check_device(path: str) -> str:
    """What is said when CUDA is asked for and this build has none."""
    try:
        open_session(path, 1, "cuda")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "a session was made"


def main() -> None:
    """Everything, as one JSON object."""
    path = write_random_weights(MODEL, WORK)
    model = onnx.load(path)
    report = {
        "paste": check_paste(),
        "refusals": check_refusals(model),
        "other paste": check_other_paste(model),
        "cuda": check_device(path),
        "equality": check_equality(path),
        "cached": [one.name for one in (Path(WORK) / "cache" / "facere").iterdir()],
        "nothing found": check_nothing_found(model),
        "weights": path,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
