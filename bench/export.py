"""What writing COCO results costs: `orch export --format coco` against one `json.dumps` per instance."""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

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
    parser.add_argument("--repeat", type=int, default=1, help="exports of each kind, in turn; the quickest is shown")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        TASKS[args.task](args.folder, args.images[0], args.per_image)
        return
    print(f"{args.per_image} instances an image")
    print(f"{'images':>10}{'':>14}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}{'file MB':>10}{'JSON MB':>10}")
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-export-") as folder:
            _run("make", folder, images, args.per_image)
            tasks = ("json.dumps", "export") * args.repeat
            found = [(task, _run(task, folder, images, args.per_image)) for task in tasks]
            sizes = [(Path(folder) / name).stat().st_size / 1e6 for name in ("predictions.npz", "coco.json")]
        _print(images, found, sizes)


def _print(images: int, found: list[tuple[str, dict[str, float]]], sizes: list[float]) -> None:
    best: dict[str, dict[str, float]] = {}
    for task in ("json.dumps", "export"):
        best[task] = {key: min(one[key] for name, one in found if name == task) for key in ("wall", "cpu", "peak_mb")}
        wall, cpu, peak = best[task].values()
        print(f"{images:10}{task:>14}{wall:10.2f}{cpu:10.2f}{peak:10.0f}{sizes[0]:10.0f}{sizes[1]:10.0f}")
    ratios = [best["json.dumps"][key] / best["export"][key] for key in ("wall", "cpu")]
    print(f"{images:10}{'ratio':>14}{ratios[0]:10.1f}{ratios[1]:10.1f}", flush=True)


def _run(task: str, folder: str, images: int, per_image: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.export", "--task", task, "--folder", folder]
    command += ["--images", str(images), "--per-image", str(per_image)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout or "{}")
    return found


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

    start = time.perf_counter(), time.process_time()
    export_coco(Predictions.load(folder / "predictions.npz"), folder / "coco.json")
    _report(start)


def _export_plainly(folder: Path, images: int, per_image: int) -> None:
    """The yardstick: as orch did it until 2026-11, one dictionary and one json.dumps per instance."""
    start = time.perf_counter(), time.process_time()
    with zipfile.ZipFile(folder / "predictions.npz") as archive, ExitStack() as stack:
        names = ("image_size", "offsets", "boxes", "classes", "scores", "mask_offsets", "masks")
        rows = {name: _Rows(stack.enter_context(archive.open(f"{name}.npy"))) for name in names}
        sizes = rows["image_size"].take(images).tolist()
        counts = np.diff(rows["offsets"].take(images + 1)).tolist()
        begin = int(rows["mask_offsets"].take(1)[0])
        with (folder / "plain.json").open("wb") as stream:
            separator = b"[\n"
            for number, (size, count) in enumerate(zip(sizes, counts, strict=True), start=1):
                corners = rows["boxes"].take(count).astype(np.float64)
                boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1).tolist()
                columns = (rows[name].take(count).tolist() for name in ("classes", "scores"))
                for box, category, score in zip(boxes, *columns, strict=True):
                    end = int(rows["mask_offsets"].take(1)[0])
                    mask = {"size": size, "counts": rows["masks"].take(end - begin).tobytes().decode("latin-1")}
                    begin = end
                    result = {"image_id": number, "category_id": category, "bbox": box, "score": score}
                    text = json.dumps({**result, "segmentation": mask}, separators=(",", ":"), allow_nan=False)
                    stream.write(separator + text.encode())
                    separator = b",\n"
            stream.write(b"\n]\n")
    _report(start)


class _Rows:
    """An array of the file, read from its first row to its last, a mebibyte at a time."""

    def __init__(self, stream: IO[bytes]) -> None:
        npy.read_magic(stream)
        shape, _, self._dtype = npy.read_array_header_1_0(stream)
        self._stream, self._shape = stream, shape[1:]
        self._kept, self._start = np.zeros((0, *self._shape), self._dtype), 0

    def take(self, count: int) -> NDArray[Any]:
        while len(self._kept) - self._start < count:
            row = self._dtype.itemsize * math.prod(self._shape)
            chunk = np.frombuffer(self._stream.read((1 << 20) // row * row), self._dtype).reshape(-1, *self._shape)
            self._kept, self._start = np.concatenate((self._kept[self._start :], chunk)), 0
        self._start += count
        return self._kept[self._start - count : self._start]


def _report(start: tuple[float, float]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1]}
    print(json.dumps({**seconds, "peak_mb": peak}))


TASKS = {"make": _make, "export": _export, "json.dumps": _export_plainly}


if __name__ == "__main__":
    main()
