"""One case of bench/facere.py, in a process of its own inside the stack's environment; prints one JSON object.

Usage: python facere_case.py RUNNER_FOLDER STACK_FOLDER WEIGHTS CACHE IMAGE SIDES CASE REPEAT THREADS
CASE: cut or graph (this project's predictor), or upstream (the same graph, then each mask thresholded and encoded
whole, as the published script does).
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

MASKS_REPEAT = 5


class Clock:
    """Wall and CPU seconds by the name of what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}
        self._last = (time.perf_counter(), time.process_time())

    def start(self) -> None:
        """Begin now."""
        self._last = (time.perf_counter(), time.process_time())

    def lap(self, name: str, less: float = 0.0) -> None:
        """What was done since the last lap, or the start, is `name`; the wall also as `name without resize`."""
        now = (time.perf_counter(), time.process_time())
        wall, cpu = now[0] - self._last[0], now[1] - self._last[1]
        self.seconds.setdefault(name, []).append((wall, cpu))
        self.seconds.setdefault(f"{name} without resize", []).append((wall - less, cpu))
        self._last = now

    def best(self) -> dict[str, tuple[float, float]]:
        """The least wall and CPU seconds of each."""
        return {
            name: (min(wall for wall, _ in laps), min(cpu for _, cpu in laps)) for name, laps in self.seconds.items()
        }


def upstream(weights: str, pixels: Any, repeat: int, threads: int, clock: Clock) -> list[bytes]:
    """Default session, full-size masks."""
    import onnxruntime  # type: ignore[import-not-found]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    clock.start()
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    clock.lap("load")
    counts: list[bytes] = []
    for _ in range(repeat):
        clock.start()
        planes = (pixels.transpose(2, 0, 1) / 255).astype(np.float32)[None]
        *_, masks = session.run(None, {session.get_inputs()[0].name: planes})
        clock.lap("forward")
        for _ in range(MASKS_REPEAT):
            clock.start()
            whole = masks.squeeze(1) > 0.5
            counts = [coco_mask.encode(np.asfortranarray(one.astype(np.uint8)))["counts"] for one in whole]
            clock.lap("masks")
        del masks, whole
    return counts


def ours(case: str, weights: str, cache: str, pixels: Any, repeat: int, threads: int, clock: Clock) -> list[bytes]:
    """This project's predictor."""
    from orch_runner import predictor as runner
    from orch_runner.rle import encode_masks
    from predictor import Predictor  # type: ignore[import-not-found]

    predictor = Predictor()
    clock.start()
    predictor.load(runner.Model("facere", {"onnx": weights}, {"paste": case}, threads, cache), "cpu")
    clock.lap("load")
    image = runner.Image("image", pixels)
    height, width = pixels.shape[:2]
    counts: list[bytes] = []
    resize = TimedResize(predictor._paster._session) if case == "cut" else None
    if resize:
        predictor._paster._session = resize
    for _ in range(repeat):
        clock.start()
        raw = predictor.predict([image])[0]
        clock.lap("forward")
        for _ in range(MASKS_REPEAT):
            before = resize.seconds if resize else 0.0
            clock.start()
            prediction = predictor.finish(raw, image)
            counts = encode_masks(prediction.masks, np.arange(len(prediction.scores)), height, width)
            clock.lap("masks", less=resize.seconds - before if resize else 0.0)
        del raw, prediction
    return counts


class TimedResize:
    """The session that enlarges masks: the part of our pasting that upstream's graph does in its forward pass."""

    def __init__(self, session: Any) -> None:
        self._session, self.seconds = session, 0.0

    def run(self, *arguments: Any) -> Any:
        """The session's own, timed."""
        started = time.perf_counter()
        try:
            return self._session.run(*arguments)
        finally:
            self.seconds += time.perf_counter() - started


def main() -> None:
    """Run one case."""
    runner_folder, stack, weights, cache, path, sides, case, repeat, threads = sys.argv[1:]
    sys.path[:0] = [stack, runner_folder]
    width, height = (int(side) for side in sides.split("x"))
    resized = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(resized)
    clock = Clock()
    if case == "upstream":
        counts = upstream(weights, pixels, int(repeat), int(threads), clock)
    else:
        counts = ours(case, weights, cache, pixels, int(repeat), int(threads), clock)
    report = {
        "instances": len(counts),
        "seconds": clock.best(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "masks": [hashlib.sha256(one).hexdigest() for one in counts],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
