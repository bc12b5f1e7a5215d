"""One case of bench/amrcnn.py, in a process of its own inside the stack's environment; prints one JSON object.

Usage: python amrcnn_case.py CASE MODEL RUNNER_FOLDER STACK_FOLDER SOURCE_FOLDER SCRIPT WEIGHTS_FOLDER CACHE IMAGES
CASE: upstream (its own inference script, unchanged, on IMAGES.tar), upstream-files (the same on the folder), ours
(this project's predictor and the runner's functions around it, one after the other in one thread).
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import runpy
import sys
import time
import types
from pathlib import Path
from typing import Any

SECONDS: dict[str, Any] = {"forward": [], "begin": 0.0, "end": 0.0, "start_up": 0.0, "start_up_wall": 0.0}
WALL = time.perf_counter()


def timed(run: Any) -> Any:
    """`run`, an image's forward pass, with its CPU seconds noted; the first ends the start."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        begin = time.process_time()
        try:
            return run(*arguments, **named)
        finally:
            now = time.process_time()
            SECONDS["forward"].append(now - begin)
            if len(SECONDS["forward"]) == 1:
                SECONDS["start_up"], SECONDS["start_up_wall"] = now, time.perf_counter() - WALL
                SECONDS["begin"] = now
            SECONDS["end"] = now

    return wrapped


def upstream(script: str, source: str, model: str, prefix: str, images: str) -> list[dict[str, Any]]:
    """What the unchanged script writes. Its imports that only draw are replaced by nothing, and cost it nothing."""
    for name in ("matplotlib", "matplotlib.pyplot", "tqdm"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["matplotlib"].use = lambda *_, **__: None  # type: ignore[attr-defined]
    sys.modules["tqdm"].tqdm = lambda items, **_: items  # type: ignore[attr-defined]
    detection = Path(source) / "models" / "official" / "detection"
    sys.path[:0] = [str(detection), str(Path(source) / "models"), str(detection.with_name("efficientnet"))]
    os.chdir(detection)
    import numpy as np
    import tensorflow.compat.v1 as tf  # type: ignore[import-untyped]
    from settings import MODELS  # type: ignore[import-not-found]

    run = tf.Session.run

    def only_images(self: Any, fetches: Any, feed_dict: Any = None, **named: Any) -> Any:
        # Restoring runs too, and feeds nothing but the path.
        call = timed(run) if isinstance(fetches, dict) else run
        return call(self, fetches, feed_dict, **named)

    tf.Session.run = only_images
    written = f"{images.rpartition('.tar')[0] or images.rpartition('/')[0]}.npy"
    flags = {
        "model": "attribute_mask_rcnn", "checkpoint_path": prefix, "config_file": f"{source}/{MODELS[model].config}",
        "label_map_file": "projects/fashionpedia/dataset/fashionpedia_label_map.csv", "image_file_pattern": images,
        "output_html": "/dev/null", "output_file": written,
    }  # fmt: skip
    sys.argv = [script, *(f"--{name}={value}" for name, value in flags.items())]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        if error.code:
            raise
    records: list[dict[str, Any]] = list(np.load(written, allow_pickle=True))
    return records


def ours(model: str, source: str, weights: str, cache: str, images: str) -> list[dict[str, Any]]:
    """Decoding, forward pass, pasting and encoding of each image in turn; the runner does them side by side."""
    import numpy as np
    from orch_runner import predictor as runner
    from orch_runner.decode import decode
    from orch_runner.rle import encode_masks
    from predictor import Predictor  # type: ignore[import-not-found]

    predictor = Predictor()
    threads = len(os.sched_getaffinity(0))
    predictor.load(runner.Model(model, {"checkpoint": weights}, {}, threads, cache, {"tpu": source}), "cpu")
    predictor._run = timed(predictor._run)
    records: list[dict[str, Any]] = []
    for path in sorted(Path(images).iterdir()):
        pixels = decode(path, "pillow", "RGB", "apply", 250_000_000)
        image = runner.Image(path.name, pixels)
        found = predictor.finish(predictor.predict([image])[0], image)
        height, width = pixels.shape[:2]
        counts = encode_masks(found.masks, np.arange(len(found.scores)), height, width)
        records.append(
            {"image_file": path.name, "boxes": found.boxes, "classes": found.classes, "scores": found.scores,
             "attributes": found.attributes, "masks": [{"counts": one} for one in counts]})  # fmt: skip
    return records


def digest(record: dict[str, Any]) -> str:
    """Of all that was found in one image."""
    summed = hashlib.sha256()
    for name in ("boxes", "classes", "scores", "attributes"):
        summed.update(record[name].tobytes())
    for mask in record["masks"]:
        summed.update(mask["counts"])
    return summed.hexdigest()


def main() -> None:
    """Run one case."""
    case, model, runner_folder, stack, source, script, weights, cache, images = sys.argv[1:]
    sys.path[:0] = [stack, runner_folder]
    from checkpoint import find_prefix  # type: ignore[import-not-found]

    out = os.dup(1)
    os.dup2(2, 1)  # upstream prints
    if case == "ours":
        records = ours(model, source, weights, cache, images)
    else:
        pattern = f"{images}.tar" if case == "upstream" else f"{images}/*"
        records = upstream(script, source, model, find_prefix(weights), pattern)
    # From the end of the first forward pass to now, less the other passes: all that is not the network.
    host = time.process_time() - SECONDS["begin"] - sum(SECONDS["forward"][1:])
    report = {
        "start_up": SECONDS["start_up"],
        "start_up_wall": SECONDS["start_up_wall"],
        "forward": sum(SECONDS["forward"][1:]) / (len(records) - 1),
        "host": host / len(records),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "found": {Path(one["image_file"]).name: [digest(one), len(one["scores"])] for one in records},
    }
    os.write(out, json.dumps(report).encode())


if __name__ == "__main__":
    main()
