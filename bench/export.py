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

from bench.collect import image_name, write_shards
from orchestrator.collect import collect


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
    shards = write_shards(folder, images, per_image, 256)
    collect(shards, ((image_name(i), i + 1) for i in range(images)), {"model": "bench"}, folder / "predictions.npz")


def _export(folder: Path, images: int, per_image: int) -> None:
    from orchestrator.export import export_coco
    from orchestrator.predictions import Predictions

    start = time.perf_counter()
    export_coco(Predictions.load(folder / "predictions.npz"), folder / "coco.json")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak}))


if __name__ == "__main__":
    main()
