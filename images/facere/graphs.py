"""Finds or makes the cut graph of a weights file, and proves once that pasting outside gives the loop's masks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import Tuple, Union

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from orch_runner.predictor import CropMask
from paste import THRESHOLD, Paster
from surgery import UnexpectedGraph, cut, find_loop, paste_graph

REVISION = 1
"""Part of the cached file's name: raise it when the surgery changes."""
MASK_SIZE = 30
"""Side of the masks that go into the loop: 28 as the network makes them, with a border of one."""
PROBE_SIZE = (37, 53)
"""Height and width of the image the check is made on."""


def cut_graph(path: str, cache: str) -> Tuple[Union[str, bytes], bool]:
    """The cut graph, as a path (as bytes without a cache), and True; the original and False if it cannot be cut."""
    kept = _cached_path(path, cache) if cache else None
    if kept is not None and kept.is_file():
        return str(kept), True
    try:
        model = onnx.load(path)
        check_paste(model)
        cut(model)
    except (UnexpectedGraph, DecodeError) as error:
        print(f"{Path(path).name}: masks are pasted by the graph itself, slowly: {error}", file=sys.stderr)
        return path, False
    content = model.SerializeToString()
    if kept is None:
        return content, True
    try:
        _write(kept, content)
    except OSError as error:
        print(f"the cut graph could not be kept: {error}", file=sys.stderr)
        return content, True
    return str(kept), True


def check_paste(model: onnx.ModelProto) -> None:
    """Run the graph's own loop on made-up masks and boxes. Raises UnexpectedGraph where paste.py's masks differ."""
    loop = find_loop(model.graph)
    masks, boxes = _probe()
    height, width = PROBE_SIZE
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
    except Exception as error:  # whatever ONNX Runtime says of a graph of another kind
        raise UnexpectedGraph(f"its loop does not run alone: {' '.join(str(error).split())[:200]}") from error
    for crop, full in zip(Paster().paste(masks, boxes, height, width), expected):
        if not np.array_equal(_full(crop, height, width), full):
            raise UnexpectedGraph("its loop pastes masks in another way")


def _probe() -> Tuple[np.ndarray, np.ndarray]:
    """Masks and boxes: whole, enlarged and reduced ones, one pixel, some that leave the image on each side."""
    height, width = PROBE_SIZE
    boxes = [
        [0, 0, width - 1, height - 1],
        [5, 7, 34, 36],
        [9, 3, 15, 8],
        [20, 20, 20, 20],
        [-3, -2, 30, 25],
        [40, 30, width + 4, height + 6],
        [-2, -2, width + 1, height + 1],
    ]
    # A fixed wave, with a border as the network's masks have it.
    grid = np.arange(MASK_SIZE * MASK_SIZE, dtype=np.float32).reshape(MASK_SIZE, MASK_SIZE)
    masks = np.stack([0.5 + 0.5 * np.sin(grid * (0.013 + 0.011 * number)) for number in range(len(boxes))])
    masks[:, [0, -1], :] = 0
    masks[:, :, [0, -1]] = 0
    return masks[:, None].astype(np.float32), np.array(boxes, np.int64)


def _full(crop: CropMask, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    rows, columns = crop.pixels.shape
    mask[crop.y : crop.y + rows, crop.x : crop.x + columns] = crop.pixels
    return mask


def _cached_path(path: str, cache: str) -> Path:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return Path(cache) / "facere" / f"{digest.hexdigest()}-cut{REVISION}.onnx"


def _write(path: Path, content: bytes) -> None:
    """Write aside, then rename: workers start at the same time and share the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
