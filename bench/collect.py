"""What collecting costs: time, memory and bytes of `collect` against one pickled npz of the same records."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions import rle
from orchestrator.predictions.collect import collect_shards
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import SHARD_FORMAT

SIZES = ((768, 1024), (1024, 768), (1080, 810), (600, 800))
POOL = 400  # different masks per image size; far more than zlib's 32 KiB window remembers
SEED = 20240501


@dataclass(frozen=True)
class Mask:
    """An ellipse with a wobbling edge."""

    box: tuple[int, int, int, int]
    counts: bytes


def main() -> None:
    """Make shards, measure both ways, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.collect", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--per-image", type=int, default=20, help="instances per image")
    parser.add_argument("--shard-size", type=int, default=64, help="images per shard")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder)")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        TASKS[args.task](args.folder, args)
        return
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-collect-") as folder:
        _measured("shards", Path(folder), args)
        pickled, ours = (_measured(task, Path(folder), args) for task in ("pickle", "collect"))
        validated = _measured("validate", Path(folder), args)
    print(f"{args.images} images, {args.per_image} instances each, {args.shard_size} images per shard")
    print(f"{'':28}{'wall s':>10}{'peak MB':>10}{'file MB':>10}")
    for name, result in (("pickled npz", pickled), ("orch-predictions/2", ours), ("  validate()", validated)):
        size = f"{result['bytes'] / 1e6:10.1f}" if "bytes" in result else ""
        print(f"{name:28}{result['seconds']:10.1f}{result['peak_mb']:10.0f}{size}")
    ratios = [ours[key] / pickled[key] for key in ("seconds", "peak_mb", "bytes")]
    print(f"{'ratio':28}{ratios[0]:10.2f}{ratios[1]:10.2f}{ratios[2]:10.2f}")


def _measured(task: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run a task in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "bench.collect", "--task", task, "--folder", str(folder)]
    for name in ("images", "per_image", "shard_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _report(start: float, **more: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak, **more}))


def _make_shards(folder: Path, args: argparse.Namespace) -> None:
    start = time.perf_counter()
    write_shards(folder, args.images, args.per_image, args.shard_size)
    _report(start)


def _collect(folder: Path, args: argparse.Namespace) -> None:
    shards, target = sorted(folder.glob("shard-*.npz")), folder / "predictions.npz"
    start = time.perf_counter()
    collect_shards(shards, ((image_name(i), i + 1) for i in range(args.images)), {"model": "bench"}, target)
    _report(start, bytes=target.stat().st_size)


def _pickle(folder: Path, args: argparse.Namespace) -> None:
    shards, target = sorted(folder.glob("shard-*.npz")), folder / "pickled.npz"
    start = time.perf_counter()
    np.savez_compressed(target, data=[record for shard in shards for record in _records(shard)])  # type: ignore[arg-type]
    _report(start, bytes=target.stat().st_size)


def _validate(folder: Path, args: argparse.Namespace) -> None:
    start = time.perf_counter()
    problems = Predictions.load(folder / "predictions.npz").validate()
    wrong = [problem for problem in problems if problem.array != "meta"]
    if wrong:
        raise SystemExit(f"the collected predictions are wrong: {wrong[:3]}")
    _report(start)


TASKS = {"shards": _make_shards, "collect": _collect, "pickle": _pickle, "validate": _validate}


def image_name(i: int) -> str:
    """A file name as photo collections have them."""
    return f"part-{i // 1000:03d}/{i * 2654435761 % (1 << 32):08x}.jpg"


def write_shards(folder: Path, images: int, per_image: int, shard_size: int) -> list[Path]:
    """Shards as runners write them, from a seeded generator."""
    rng = np.random.default_rng(SEED)
    pools = [[_mask(rng, size) for _ in range(POOL)] for size in SIZES]
    paths = []
    for number, first in enumerate(range(0, images, shard_size)):
        names = [image_name(i) for i in range(first, min(first + shard_size, images))]
        path = folder / f"shard-{number:05d}.npz"
        np.savez(path, **_shard(rng, names, per_image, pools, number))  # type: ignore[arg-type]
        paths.append(path)
    return paths


def _mask(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    height, width = size
    radii = rng.uniform(0.03, 0.3, 2) * size
    centre = rng.uniform(0.1, 0.9, 2) * size
    y, x = np.mgrid[:height, :width]
    y, x = (y - centre[0]) / radii[0], (x - centre[1]) / radii[1]
    angle = np.arctan2(y, x)
    edge = 1 + sum(rng.normal(0, 0.08) * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(2, 9))
    counts = rle.encode(np.hypot(x, y) < edge)
    return Mask(rle.find_box(counts, size), counts)


def _shard(
    rng: np.random.Generator, names: list[str], per_image: int, pools: list[list[Mask]], number: int
) -> dict[str, NDArray[Any]]:
    kinds = rng.integers(0, len(SIZES), len(names))
    masks = [pools[kind][pick] for kind in kinds for pick in rng.integers(0, POOL, per_image)]
    count = len(masks)
    boxes = np.array([mask.box for mask in masks], np.float32).reshape(-1, 4)
    # A model's boxes are no whole numbers; moved inwards they stay inside the image.
    boxes += rng.uniform(0, 0.4, boxes.shape).astype(np.float32) * np.array([1, 1, -1, -1], np.float32)
    scores = np.sort(rng.beta(1, 3, (len(names), per_image)).astype(np.float32))[:, ::-1]
    return {
        "image_file": np.array(names),
        "image_sha256": rng.integers(1, 256, (len(names), 32), np.uint8),
        "image_size": np.array([SIZES[kind] for kind in kinds], np.int32).reshape(-1, 2),
        "status": np.zeros(len(names), np.uint8),
        "error": np.zeros(len(names), "U1"),
        "offsets": np.arange(0, count + 1, per_image, dtype=np.int64),
        "boxes": boxes,
        "classes": rng.integers(0, 46, count).astype(np.int32),
        "scores": scores.reshape(-1),
        "masks": np.frombuffer(b"".join(mask.counts for mask in masks), np.uint8),
        "mask_offsets": np.cumsum([0, *(len(mask.counts) for mask in masks)], dtype=np.int64),
        "meta": np.array(json.dumps({"format": SHARD_FORMAT, "shard": number, "plan": "bench"})),
    }


def _records(shard: Path) -> Iterator[dict[str, Any]]:
    """A shard's images as the dictionaries that upstream's scripts pickle."""
    with np.load(shard, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    masks, cuts = arrays["masks"].tobytes(), arrays["mask_offsets"].tolist()
    for i, file in enumerate(arrays["image_file"].tolist()):
        rows = range(*arrays["offsets"][i : i + 2].tolist())
        size = arrays["image_size"][i].tolist()
        part = slice(rows.start, rows.stop)
        yield {
            "image_file": file,
            "boxes": arrays["boxes"][part].copy(),
            "classes": arrays["classes"][part].copy(),
            "scores": arrays["scores"][part].copy(),
            "masks": [{"size": list(size), "counts": masks[cuts[n] : cuts[n + 1]]} for n in rows],
        }


if __name__ == "__main__":
    main()
