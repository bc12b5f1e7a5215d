"""One case of bench/fformer.py, in a process of its own inside the stack's environment; prints one JSON object.

Usage: python fformer_case.py SOURCES CONFIG WEIGHTS IMAGE MEGAPIXELS CASE FLOOR REPEAT THREADS
PYTHONPATH has the runner and the stack. CASE: ours (this project's predictor), or upstream (the network as its authors
wrote it, imported from SOURCES, then what the published prediction script does: stack all masks, drop what is below the
floor, box after box, encode one by one).
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch  # type: ignore[import-not-found]
from checkpoint import read  # type: ignore[import-not-found]
from masks import encode, enlarge  # type: ignore[import-not-found]
from orch_runner.predictor import Image, Model
from predictor import SOURCE, Predictor  # type: ignore[import-not-found]
from pycocotools import mask as coco_mask
from upstream import build, prepare  # type: ignore[import-not-found]


class Clock:
    """The least CPU seconds each thing took: with one thread those of a wall clock, on a busy machine too."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do it; the result is its result."""
        started = time.process_time()
        result = work()
        seconds = time.process_time() - started
        self.best[name] = min(self.best.get(name, seconds), seconds)
        return result


class Ours:
    """This project's predictor."""

    def __init__(self, model: Model) -> None:
        self.predictor = Predictor()
        self.predictor.load(model, "cpu")

    def run(self, pixels: np.ndarray, clock: Clock) -> tuple[Any, ...]:
        image = Image("photograph", pixels)
        found = clock.time("network", lambda: self.predictor.predict([image])[0])
        outlines = clock.time("enlarging", lambda: enlarge(found))
        encoded, boxes = clock.time("host", lambda: encode(outlines))
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
        return boxes, found.classes, found.scores, encoded


class Upstream:
    """The authors' network and the published script's steps, in this project's words."""

    def __init__(self, model: Model, floor: float) -> None:
        self.floor = floor
        self.network, self.pipeline = build(model.sources[SOURCE], model.config)
        self.network.load_state_dict(read(model.name, model.weights["pth"], None, ""))
        self.head = self.network.roi_head.mask_head[-1]
        self.collect = self.head.segm2result
        self.pending: Any = None
        self.head.segm2result = self._later

    def _later(self, *given: Any) -> tuple[None, None, None]:
        """segm2result is what begins on the host where a GPU enlarged the masks: it is called when timed."""
        self.pending = given
        return None, None, None

    def run(self, pixels: np.ndarray, clock: Clock) -> tuple[Any, ...]:
        image, told = prepare(self.pipeline, pixels)
        enlarging = self.head.rescale_masks
        self.head.rescale_masks = lambda *given: clock.time("enlarging", lambda: enlarging(*given))
        with torch.no_grad():
            clock.time("network", lambda: self.network([image], told, return_loss=False, rescale=True))
        self.head.rescale_masks = enlarging
        return clock.time("host", self._steps)  # type: ignore[no-any-return]

    def _steps(self) -> tuple[Any, ...]:
        by_class, masks_by_class, _ = self.collect(*self.pending)
        classes = np.concatenate([np.full(len(rows), number, np.int32) for number, rows in enumerate(by_class)])
        masks = np.stack([mask for group in masks_by_class for mask in group], axis=0)
        scores = np.vstack(by_class)[:, -1]
        if self.floor:
            kept = scores > self.floor
            scores, classes, masks = scores[kept], classes[kept], masks[kept]
        boxes = np.zeros((len(masks), 4), np.float32)
        for row, mask in enumerate(torch.from_numpy(masks)):
            y, x = torch.where(mask != 0)
            if len(x):
                boxes[row] = [x.min(), y.min(), x.max(), y.max()]
        encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        return boxes, classes, scores, encoded


def main() -> None:
    """Measure the one case."""
    sources, config, weights, file, megapixels, case, floor, repeat, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    name = "fformer-swin" if "swin" in config else "fformer-r50-fpn"
    model = Model(name, {"pth": weights}, threads=int(threads), sources={SOURCE: sources}, config=config)
    model.score_threshold = float(floor)
    pixels: Any = cv2.imread(file)
    factor = (float(megapixels) * 1e6 / (pixels.shape[0] * pixels.shape[1])) ** 0.5
    if float(megapixels):
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    way: Any = Ours(model) if case == "ours" else Upstream(model, float(floor))
    clock = Clock()
    for _ in range(int(repeat)):
        result = clock.time("all", lambda: way.run(pixels, clock))
    if case == "upstream":
        clock.best["network"] -= clock.best["enlarging"]
    boxes, classes, scores, encoded = result
    digest = hashlib.sha256(boxes.tobytes() + classes.tobytes() + scores.tobytes())
    digest.update(b"".join(one["counts"] for one in encoded))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": clock.best, "instances": len(scores), "peak_mb": peak, "digest": digest.hexdigest(),
                      "size": list(pixels.shape[:2])}))  # fmt: skip


if __name__ == "__main__":
    main()
