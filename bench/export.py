"""What writing COCO results costs: time and peak memory of `orch export --format coco`, by number of images."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.evaluate import CATEGORIES, SEED, SIZE, categories, ellipse
from orchestrator.predictions.npz import NpzWriter
from orchestrator.predictions.schema import FORMAT, META

POOL = 2000  # different masks


def main() -> None:
    """Make predictions, export them in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--per-image", type=int, default=20, help="instances per image")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder)")
    parser.add_argument("--task", choices=("make", "export"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        {"make": _make, "export": _export}[args.task](args.folder, args.images[0], args.per_image)
        return
    print(f"{args.per_image} instances an image")
    print(f"{'images':>10}{'wall s':>10}{'peak MB':>10}{'file MB':>10}{'JSON MB':>10}")
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-export-") as folder:
            for task in ("make", "export"):
                command = [sys.executable, "-m", "bench.export", "--task", task, "--folder", folder]
                command += ["--images", str(images), "--per-image", str(args.per_image)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found = json.loads(done.stdout)
            sizes = [(Path(folder) / name).stat().st_size / 1e6 for name in ("predictions.npz", "coco.json")]
            print(
                f"{images:10}{found['seconds']:10.1f}{found['peak_mb']:10.0f}{sizes[0]:10.0f}{sizes[1]:10.0f}",
                flush=True,
            )


def _make(folder: Path, images: int, per_image: int) -> None:
    """Predictions with masks from a pool of ellipses, far more bytes than zlib's window remembers."""
    rng = np.random.default_rng(SEED)
    low = rng.uniform(0, 300, (POOL, 2))
    boxes = np.concatenate((low, low + rng.uniform(30, 290, (POOL, 2))), axis=1)
    pool = [ellipse(box) for box in boxes]
    picks = rng.integers(0, POOL, images * per_image)
    lengths = np.array([len(counts) for counts in pool])[picks]
    meta = {**dict.fromkeys(META), "format": FORMAT, "model": "bench", "categories": categories()}
    with NpzWriter(folder / "predictions.npz", compress=True, level=1) as writer:
        writer.write_array("image_file", np.array([f"{number:06d}.jpg" for number in range(images)]))
        writer.write_array("image_sha256", np.ones((images, 32), np.uint8))
        writer.write_array("image_size", np.array([SIZE] * images, np.int32))
        writer.write_array("status", np.zeros(images, np.uint8))
        writer.write_array("error", np.zeros(images, "U1"))
        writer.write_array("offsets", np.arange(0, len(picks) + 1, per_image, dtype=np.int64))
        writer.write_array("boxes", boxes[picks].astype(np.float32))
        writer.write_array("classes", rng.integers(0, CATEGORIES, len(picks)).astype(np.int32))
        scores = np.sort(rng.random((images, per_image)).astype(np.float32))[:, ::-1]
        writer.write_array("scores", np.ascontiguousarray(scores).reshape(-1))
        with writer.array("masks", (int(lengths.sum()),), np.uint8) as masks:
            for pick in picks.tolist():
                masks.write(np.frombuffer(pool[pick], np.uint8))
        writer.write_array("mask_offsets", np.concatenate(([0], np.cumsum(lengths))).astype(np.int64))
        writer.write_array("meta", np.array(json.dumps(meta)))


def _export(folder: Path, images: int, per_image: int) -> None:
    from orchestrator.predictions.export import export_coco
    from orchestrator.predictions.predictions import Predictions

    start = time.perf_counter()
    export_coco(Predictions.load(folder / "predictions.npz"), folder / "coco.json")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak}))


if __name__ == "__main__":
    main()
