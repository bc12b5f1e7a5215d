"""What the runner's loop adds to facere's forward passes: decoding, pasting and encoding hide behind them.

Usage: python -m bench.facere_loop [--images 60] [--milliseconds 80 | --real]. The forward pass is replaced by a sleep,
as long as a GPU's would be, that gives what the real one found on the first image; with --real it is the real one on
the CPU, compared with the same pass timed alone on the first image. Everything else is the real runner.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.facere import RUNNER, STACK, environment_python, make_weights, photograph

BARE_PASSES = 8

PREDICTOR = """
import sys, time
sys.path.insert(0, {stack!r})
import importlib.util
spec = importlib.util.spec_from_file_location("facere_predictor", {stack!r} + "/predictor.py")
facere = importlib.util.module_from_spec(spec)
spec.loader.exec_module(facere)

class Predictor(facere.Predictor):
    found = None

    def predict(self, images):
        if self.found is None:
            for _ in range({passes} + 1):
                started = time.perf_counter()
                self.found = super().predict(images)
                print("bare", time.perf_counter() - started, file=sys.stderr)
        if not {seconds}:
            return super().predict(images)
        time.sleep({seconds})
        return self.found
"""


def main() -> None:
    """Print the loop's wall against the sleeps alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--milliseconds", type=float, default=80)
    parser.add_argument("--real", action="store_true", help="real forward passes instead of sleeps")
    arguments = parser.parse_args()
    seconds = 0.0 if arguments.real else arguments.milliseconds / 1000
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        wall, instances, alone = measure(Path(scratch), arguments.images, seconds)
    bare = (seconds or alone) * arguments.images
    print(f"{arguments.images} images of 1080x810, {instances} masks each: {wall:.2f} s, {bare:.2f} s of them forward")
    print(f"ratio {wall / bare:.3f}")


def measure(folder: Path, images: int, seconds: float) -> tuple[float, int, float]:
    """Seconds for all images but the first, instances in each, and seconds of a real forward pass alone.

    `seconds` is a forward pass's sleep, 0 for real ones.
    """
    python = environment_python()
    for name in ("stack", "data", "weights", "out", "cache", "job/queue"):
        (folder / name).mkdir(parents=True)
    make_weights(python, folder / "weights")
    (folder / "stack" / "predictor.py").write_text(
        PREDICTOR.format(stack=str(STACK), seconds=seconds, passes=0 if seconds else BARE_PASSES)
    )
    first = photograph(folder)
    subprocess.run([python, "-c", RESIZE, first, folder / "data" / "0.jpg"], check=True)
    for number in range(1, images + 1):
        shutil.copyfile(folder / "data" / "0.jpg", folder / "data" / f"{number}.jpg")
    for shard, part in enumerate([range(1), range(1, images + 1)]):
        listed = [{"index": one, "file": f"{one}.jpg", "path": f"{one}.jpg"} for one in part]
        order = {"shard": shard, "images": listed, "skip": {}, "careful": False, "alone": []}
        (folder / "job" / "queue" / f"{shard:05}.json").write_text(json.dumps(order))
    for name in ("alive", "end"):
        (folder / "job" / "queue" / name).touch()
    (folder / "job" / "job.json").write_text(json.dumps(job(folder)))
    return run_job(python, folder)


RESIZE = """
import sys
from PIL import Image
Image.open(sys.argv[1]).convert("RGB").resize((1080, 810)).save(sys.argv[2], quality=92)
"""


def job(folder: Path) -> dict[str, Any]:
    """job.json for the shards laid out."""
    paths = {name: str(folder / name) for name in ("data", "weights", "out", "cache", "stack")}
    weights = {"onnx": {"file": "facere_base.onnx", "sha256": None, "package": None}}
    return {
        "contract": "orch-job/2", "run": "bench", "worker": "w0", "plan": "bench",
        "predictor": "predictor.py:Predictor",
        "model": {"name": "facere", "task": "instance-segmentation", "settings": {"paste": "cut"}, "weights": weights},
        "native": {"box_order": "xyxy", "class_base": 1, "class_map": list(range(46))}, "device": "cpu",
        "exif": "apply", "score_threshold": None, "max_detections": None, "max_pixels": 250_000_000, "batch_size": 1,
        "threads": 1, "readers": 2, "attributes": 0, "image_scores": False, "alive_timeout": 600, "part_every": 60,
        "max_file_bytes": 1 << 30, "decode_timeout": 120,
        "paths": {**paths, "queue": str(folder / "job" / "queue"), "sources": {}},
    }  # fmt: skip


def run_job(python: Path, folder: Path) -> tuple[float, int, float]:
    """Run the runner; seconds from one shard's end to the other's, instances per image, seconds of a pass alone."""
    environment = {**os.environ, "PYTHONPATH": str(RUNNER), "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "orch_runner", str(folder / "job" / "job.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    first, second = [event for event in events if event["event"] == "shard_done"]
    bare = [float(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("bare ")]
    # The first pass of a session allocates and plans.
    alone = statistics.median(bare[1:] or bare)
    return second["time"] - first["time"], second["instances"] // second["images"], alone


if __name__ == "__main__":
    main()
