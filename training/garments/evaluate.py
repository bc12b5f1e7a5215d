"""Score garments-tiny with pycocotools on held-out drawn scenes, through the stack's own predictor."""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from orch_runner.predictor import CropMask, Model, Prediction
from orch_runner.predictor import Image as GuestImage
from PIL import Image, ImageDraw
from predictor import Predictor
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator.workflows.demo.scenes import CATEGORIES, PICTURE_SIZE, write_scenes

HELD_OUT = 1_000_000


def whole_mask(mask: CropMask, size: tuple[int, int]) -> NDArray[np.uint8]:
    whole = np.zeros(size, dtype=np.uint8, order="F")
    height, width = mask.pixels.shape
    whole[mask.y : mask.y + height, mask.x : mask.x + width] = mask.pixels
    return whole


def coco_results(
    image_id: int, prediction: Prediction, size: tuple[int, int], floor: float
) -> Iterable[dict[str, Any]]:
    masks = prediction.masks or []
    for box, class_index, score, mask in zip(
        prediction.boxes, prediction.classes, prediction.scores, masks, strict=True
    ):
        if score >= floor:
            left, top, right, bottom = (float(value) for value in box)
            yield {
                "image_id": image_id,
                "category_id": int(class_index) + 1,
                "score": float(score),
                "bbox": [left, top, right - left, bottom - top],
                "segmentation": coco_mask.encode(whole_mask(mask, size)),
            }


def evaluated(truth: COCO, results: list[dict[str, Any]], kind: str) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def report(truth: COCO, results: list[dict[str, Any]]) -> None:
    masks, boxes = evaluated(truth, results, "segm"), evaluated(truth, results, "bbox")
    print("mask AP {:.3f}  AP50 {:.3f}  AP75 {:.3f}".format(*masks.stats[:3]))
    print("box  AP {:.3f}  AP50 {:.3f}  AP75 {:.3f}".format(*boxes.stats[:3]))
    precision = masks.eval["precision"][:, :, :, 0, 2]
    for index, name in enumerate(CATEGORIES):
        print(f"  {name}: mask AP {precision[:, :, index].mean():.3f}")


def drawn_over(pixels: NDArray[np.uint8], prediction: Prediction, floor: float) -> NDArray[np.uint8]:
    """The picture with its predictions above `floor` tinted and named."""
    tinted = pixels.astype(np.float32)
    rng = np.random.default_rng(0)
    labels = []
    for box, class_index, score, mask in zip(
        prediction.boxes, prediction.classes, prediction.scores, prediction.masks or [], strict=True
    ):
        if score >= floor:
            inside = whole_mask(mask, pixels.shape[:2]) > 0
            tinted[inside] = 0.4 * tinted[inside] + 0.6 * rng.uniform(40, 255, 3)
            labels.append((box[0] + 3, (box[1] + box[3]) / 2, f"{CATEGORIES[class_index]} {score:.2f}"))
    image = Image.fromarray(tinted.astype(np.uint8))
    for x, y, label in labels:
        ImageDraw.Draw(image).text((x, y), label, fill="white", stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def evaluate(arguments: argparse.Namespace, folder: Path) -> None:
    annotations = write_scenes(folder, range(HELD_OUT, HELD_OUT + arguments.scenes), arguments.size)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    predictor = Predictor()
    predictor.load(Model("garments-tiny", {"onnx": str(arguments.weights)}, threads=arguments.threads), "cpu")
    results: list[dict[str, Any]] = []
    predict_seconds, finish_seconds, tiles = [], [], []
    for record in truth.loadImgs(sorted(truth.imgs)):
        pixels = np.asarray(Image.open(folder / record["file_name"]))
        image = GuestImage(record["file_name"], pixels)
        started = time.perf_counter()
        raw = predictor.predict([image])[0]
        predicted = time.perf_counter()
        prediction = predictor.finish(raw, image)
        finish_seconds.append(time.perf_counter() - predicted)
        predict_seconds.append(predicted - started)
        results.extend(coco_results(record["id"], prediction, pixels.shape[:2], arguments.score_floor))
        if len(tiles) < 12:
            tiles.append(np.vstack([pixels, drawn_over(pixels, prediction, 0.3)]))
    print(f"{len(truth.imgs)} scenes of {arguments.size} px: {len(truth.anns)} garments")
    print(f"{len(results)} predictions of at least {arguments.score_floor}")
    report(truth, results)
    predict_ms, finish_ms = 1000 * np.median(predict_seconds), 1000 * np.median(finish_seconds)
    print(f"median ms an image, {arguments.threads} thread(s): predict {predict_ms:.1f}, finish {finish_ms:.1f}")
    if arguments.picture:
        rows = [np.hstack(tiles[first : first + 6]) for first in range(0, len(tiles) - 5, 6)]
        Image.fromarray(np.vstack(rows)).save(arguments.picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--size", type=int, default=PICTURE_SIZE)
    parser.add_argument("--score-floor", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="write the first twelve scenes and their predictions here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        evaluate(arguments, Path(folder))


if __name__ == "__main__":
    main()
