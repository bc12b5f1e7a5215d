"""Find or make the cut graph of a weights file; check once that pasting outside it gives the loop's masks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Tuple, Union

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from orch_runner.files import hash_file, open_replacement
from orch_runner.predictor import CropMask
from paste import THRESHOLD, Paster
from surgery import UnexpectedGraph, cut, find_loop, paste_graph

REVISION = 1
"""Part of the cached file's name; increase it when surgery.py changes."""
MASK_SIZE = 30
"""Side of the loop's input masks: the network's 28 cells and a border of one."""
SAMPLE_SIZE = (37, 53)
"""Height and width of the image in `check_paste`."""


def cut_graph(path: str, cache: str) -> Tuple[Union[str, bytes], bool]:
    """Return the cut graph, a path (without a cache, bytes), and True; if it cannot be cut, the original and False."""
    cached = _cached_path(path, cache) if cache else None
    if cached is not None and cached.is_file():
        return str(cached), True
    try:
        model = onnx.load(path)
        check_paste(model)
        cut(model)
    except (UnexpectedGraph, DecodeError) as error:
        print(f"{Path(path).name}: masks are pasted by the graph itself, which is slow: {error}", file=sys.stderr)
        return path, False
    content = model.SerializeToString()
    if cached is None:
        return content, True
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with open_replacement(cached) as stream:
            stream.write(content)
    except OSError as error:
        print(f"cannot cache the cut graph: {error}", file=sys.stderr)
        return content, True
    return str(cached), True


def check_paste(model: onnx.ModelProto) -> None:
    """Run the graph's own loop on sample masks and boxes. Raises UnexpectedGraph if paste.py's masks differ."""
    loop = find_loop(model.graph)
    masks, boxes = _make_samples()
    height, width = SAMPLE_SIZE
    image = np.zeros((1, 3, height, width), np.float32)
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            paste_graph(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        given = {loop.masks: masks, loop.boxes: boxes}
        expected = session.run(None, {name: given.get(name, image) for name in names})[0] > THRESHOLD
    except Exception as error:  # ONNX Runtime raises errors of any class on other graphs
        raise UnexpectedGraph(f"its loop does not run alone: {' '.join(str(error).split())[:200]}") from error
    for crop, full in zip(Paster().paste(masks, boxes, height, width), expected):
        if not np.array_equal(_make_full_mask(crop, height, width), full):
            raise UnexpectedGraph("its loop pastes masks differently")


def _make_samples() -> Tuple[np.ndarray, np.ndarray]:
    """Return masks and boxes: whole, enlarged and reduced, one pixel, and beyond each side of the image."""
    height, width = SAMPLE_SIZE
    boxes = [
        [0, 0, width - 1, height - 1],
        [5, 7, 34, 36],
        [9, 3, 15, 8],
        [20, 20, 20, 20],
        [-3, -2, 30, 25],
        [40, 30, width + 4, height + 6],
        [-2, -2, width + 1, height + 1],
    ]
    # A fixed wave, with a border of zeros like the network's masks.
    grid = np.arange(MASK_SIZE * MASK_SIZE, dtype=np.float32).reshape(MASK_SIZE, MASK_SIZE)
    masks = np.stack([0.5 + 0.5 * np.sin(grid * (0.013 + 0.011 * number)) for number in range(len(boxes))])
    masks[:, [0, -1], :] = 0
    masks[:, :, [0, -1]] = 0
    return masks[:, None].astype(np.float32), np.array(boxes, np.int64)


def _make_full_mask(crop: CropMask, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    rows, columns = crop.pixels.shape
    mask[crop.y : crop.y + rows, crop.x : crop.x + columns] = crop.pixels
    return mask


def _cached_path(path: str, cache: str) -> Path:
    return Path(cache) / "facere" / f"{hash_file(Path(path))}-cut{REVISION}.onnx"
