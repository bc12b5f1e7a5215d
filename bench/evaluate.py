"""What evaluating costs: `orch eval` and its engine against pycocotools on the same files."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from orchestrator.predictions.npz import NpzWriter
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import FORMAT, META

SEED = 20240501
SIZE = (600, 800)
CATEGORIES = 27
ANNOTATIONS_PER_IMAGE = 8
IMPORTANT = {"format": FORMAT, "task": "instance-segmentation", "taxonomy": "bench", "native": {}}


def main() -> None:
    """Make files, measure three ways, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluate", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--per-image", type=int, default=100, help="detections per image")
    parser.add_argument("--iou", choices=("bbox", "segm"), nargs="+", default=["bbox", "segm"])
    parser.add_argument("--alone", action="store_true", help="only orch eval: pycocotools needs 3 kB per detection")
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder)")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        TASKS[args.task](args.folder, args.iou[0])
        return
    if args.write:
        write(args.folder, args.images, args.per_image, with_results=not args.alone)
        return
    print(f"{args.images} images, {ANNOTATIONS_PER_IMAGE} annotations and {args.per_image} detections each")
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-evaluate-") as folder:
        # In a process of its own: the peak memory of a child begins with that of the process that starts it.
        subprocess.run(
            [sys.executable, "-m", "bench.evaluate", *sys.argv[1:], "--write", "--folder", folder], check=True
        )
        for iou in args.iou:
            _tell(Path(folder), iou) if args.alone else _compare(Path(folder), iou)


def _compare(folder: Path, iou: str) -> None:
    reference, engine, command = (_measured(folder, iou, task) for task in ("pycocotools", "engine", "command"))
    worst = max(abs(a - b) for a, b in zip(reference["stats"], engine["stats"], strict=True))
    print(f"\n{iou}: the twelve figures differ by at most {worst:.1e}")
    print(f"{'':30}{'load':>17}{'evaluate':>17}{'whole':>17}{'peak MB':>9}")
    print(f"{'':30}{'wall s    CPU s':>17}{'wall s    CPU s':>17}{'wall s    CPU s':>17}")
    for name, one in (("pycocotools", reference), ("the engine alone (hotcoco)", engine)):
        whole = [a + b for a, b in zip(one["load"], one["evaluate"], strict=True)]
        print(f"{name:30}{_pair(one['load'])}{_pair(one['evaluate'])}{_pair(whole)}{one['peak_mb']:9.0f}")
    print(f"{'orch eval':30}{'':34}{_pair(command['whole'])}{command['peak_mb']:9.0f}")
    for place, unit in enumerate(("wall time", "CPU time")):
        quick = reference["evaluate"][place] / engine["evaluate"][place]
        whole = (reference["load"][place] + reference["evaluate"][place]) / command["whole"][place]
        print(f"{unit}: evaluate + accumulate {quick:.1f} times faster, the whole command {whole:.1f} times")


def _tell(folder: Path, iou: str) -> None:
    command = _measured(folder, iou, "command")
    wall, cpu = command["whole"]
    print(f"orch eval --iou {iou}: {wall:.2f} s, {cpu:.2f} CPU s, peak {command['peak_mb']:.0f} MB", flush=True)


def _pair(seconds: list[float]) -> str:
    return f"{seconds[0]:8.2f}{seconds[1]:9.2f}"


class _Clock:
    """Wall and CPU seconds since it was made, or since it was last asked."""

    def __init__(self) -> None:
        self._last = self._now()

    def lap(self) -> list[float]:
        """[wall, CPU]; the CPU time of ended child processes counts."""
        now = self._now()
        passed = [now - last for now, last in zip(now, self._last, strict=True)]
        self._last = now
        return passed

    def _now(self) -> list[float]:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return [time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)]


def _measured(folder: Path, iou: str, task: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.evaluate", "--task", task, "--folder", str(folder), "--iou", iou]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _report(**result: Any) -> None:
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**result, "peak_mb": max(children, own) / 1024}))


def _pycocotools(folder: Path, iou: Literal["bbox", "segm"]) -> None:
    """As its own example: COCO(file), loadRes(file), evaluate, accumulate, summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        clock = _Clock()
        truth = COCO(str(folder / "annotations.json"))
        found = truth.loadRes(str(folder / f"results-{iou}.json"))
        loaded = clock.lap()
        evaluation = COCOeval(truth, found, iou)
        evaluation.evaluate()
        evaluation.accumulate()
        done = clock.lap()
        evaluation.summarize()
    _report(load=loaded, evaluate=done, stats=list(evaluation.stats))


def _engine(folder: Path, iou: Literal["bbox", "segm"]) -> None:
    """hotcoco on the same two files."""
    import hotcoco

    clock = _Clock()
    truth = hotcoco.COCO(str(folder / "annotations.json"))
    found = truth.load_res(str(folder / f"results-{iou}.json"))
    loaded = clock.lap()
    evaluation = hotcoco.COCOeval(truth, found, iou)
    evaluation.evaluate()
    evaluation.accumulate()
    done = clock.lap()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    _report(load=loaded, evaluate=done, stats=list(map(float, evaluation.stats)))


def _command(folder: Path, iou: Literal["bbox", "segm"]) -> None:
    """The command as a user types it, Python's start included."""
    clock = _Clock()
    orch = [sys.executable, "-c", "from orchestrator.cli import entry_point; entry_point()", "eval"]
    given = [str(folder / "predictions.npz"), "--annotations", str(folder / "annotations.json"), "--iou", iou]
    subprocess.run([*orch, *given], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _report(whole=clock.lap())


TASKS = {"pycocotools": _pycocotools, "engine": _engine, "command": _command}


def write(folder: Path, images: int, per_image: int, with_results: bool = True) -> None:
    """Annotations, predictions.npz and the same predictions as COCO results, from a seeded generator."""
    rng = np.random.default_rng(SEED)
    truth_boxes, truth_classes = _annotations(rng, images)
    _write_annotations(folder / "annotations.json", truth_boxes, truth_classes)
    boxes, classes = _detections(rng, truth_boxes, truth_classes, per_image)
    scores = np.sort(rng.beta(1, 3, (images, per_image)).astype(np.float32))[:, ::-1]
    _write_predictions(folder / "predictions.npz", boxes, classes, scores)
    if not with_results:
        return
    predictions = Predictions.load(folder / "predictions.npz")
    for iou, key in (("bbox", "segmentation"), ("segm", "bbox")):
        results = [{name: value for name, value in one.items() if name != key} for one in predictions.to_coco()]
        (folder / f"results-{iou}.json").write_text(json.dumps(results))


def _annotations(rng: np.random.Generator, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes (I,G,4) as corners, and classes (I,G)."""
    shape = (images, ANNOTATIONS_PER_IMAGE, 2)
    sides = np.exp(rng.uniform(np.log(12), np.log(350), shape)).astype(np.int64)
    low = (rng.random(shape) * (np.array(SIZE[::-1]) - sides)).astype(np.int64)
    return np.concatenate((low, low + sides), axis=2), rng.integers(0, CATEGORIES, shape[:2])


def _detections(
    rng: np.random.Generator, truth: NDArray[np.int64], classes: NDArray[np.int64], per_image: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Around the truth, off by up to half its size, two fifths of another category."""
    source = rng.integers(0, truth.shape[1], (len(truth), per_image))
    boxes = np.take_along_axis(truth, source[..., None], 1).astype(np.float64)
    sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
    boxes += rng.normal(0, 0.12, boxes.shape) * sides
    limit = np.array([SIZE[1], SIZE[0]])
    low = np.clip(boxes[..., :2], 0, limit - 4)
    high = np.clip(boxes[..., 2:], low + 2, limit)
    kinds = np.take_along_axis(classes, source, 1)
    kinds = np.where(rng.random(kinds.shape) < 0.4, rng.integers(0, CATEGORIES, kinds.shape), kinds)
    return np.concatenate((low, high), axis=2).astype(np.float32), kinds


def ellipse(box: NDArray[Any]) -> bytes:
    """The ellipse within a box, as COCO RLE; column by column, which is how RLE goes."""
    x1, y1, x2, y2 = (float(side) for side in box)
    left, right = int(x1), int(np.ceil(x2))
    x = (np.arange(left, right) + 0.5 - (x1 + x2) / 2) / (x2 - x1)
    half = np.sqrt(np.maximum(0.25 - x * x, 0)) * (y2 - y1)
    middle = (y1 + y2) / 2
    top, bottom = (middle - half).astype(np.int64), np.ceil(middle + half).astype(np.int64)
    edges = np.stack((top, np.minimum(np.maximum(bottom, top + 1), SIZE[0])), axis=1)
    edges += np.arange(left, right)[:, None] * SIZE[0]
    runs = np.diff(np.concatenate(([0], edges.reshape(-1), [SIZE[0] * SIZE[1]]))).tolist()
    encoded = coco_mask.frPyObjects({"size": list(SIZE), "counts": runs}, *SIZE)
    counts: bytes = encoded["counts"]
    return counts


def _write_annotations(path: Path, boxes: NDArray[np.int64], classes: NDArray[np.int64]) -> None:
    corners = boxes.reshape(-1, 4)
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": number // ANNOTATIONS_PER_IMAGE + 1,
            "category_id": category,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": (box[2] - box[0]) * (box[3] - box[1]),
            "iscrowd": 0,
            "segmentation": {"size": SIZE, "counts": ellipse(np.array(box)).decode()},
        }
        for number, (box, category) in enumerate(zip(corners.tolist(), classes.reshape(-1).tolist(), strict=True))
    ]
    images = [
        {"id": number + 1, "file_name": f"{number:06d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for number in range(len(boxes))
    ]
    for annotation in annotations:
        annotation["id"] += 1
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories()}))


def categories() -> list[dict[str, Any]]:
    """As a taxonomy has them."""
    return [{"id": number, "name": f"category {number}"} for number in range(CATEGORIES)]


def _write_predictions(
    path: Path, boxes: NDArray[np.float32], classes: NDArray[np.int64], scores: NDArray[np.float32]
) -> None:
    images, per_image = classes.shape
    counts = [ellipse(box) for box in boxes.reshape(-1, 4)]
    meta = {**dict.fromkeys(META), **IMPORTANT, "model": "bench", "categories": categories()}
    with NpzWriter(path, compress=True) as writer:
        for name, array in {
            "image_file": np.array([f"{number:06d}.jpg" for number in range(images)]),
            "image_sha256": np.ones((images, 32), np.uint8),
            "image_size": np.array([SIZE] * images, np.int32),
            "status": np.zeros(images, np.uint8),
            "error": np.zeros(images, "U1"),
            "offsets": np.arange(0, images * per_image + 1, per_image, dtype=np.int64),
            "boxes": boxes.reshape(-1, 4),
            "classes": classes.reshape(-1).astype(np.int32),
            "scores": scores.reshape(-1),
            "masks": np.frombuffer(b"".join(counts), np.uint8),
            "mask_offsets": np.cumsum([0, *map(len, counts)], dtype=np.int64),
            "meta": np.array(json.dumps(meta)),
        }.items():
            writer.write_array(name, array)


if __name__ == "__main__":
    main()
