"""Seeded random predictions and truths with all that makes evaluation hard, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import META, Arrays, box_mask, digests, save

Iou = Literal["segm", "bbox"]
CATEGORIES = [{"id": 0, "name": "shirt"}, {"id": 3, "name": "hat"}, {"id": 7, "name": "bag"}, {"id": 9, "name": "shoe"}]
SIZE = (150, 200)
NEVER_ANNOTATED = 9


def random_truth(seed: int, images: int = 12) -> dict[str, Any]:
    """COCO annotations with crowds, polygons, run lengths, empty images, and a category nobody has."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(0 if image == 1 else int(rng.integers(1, 7))):
            x, y, width, height = _box(rng)
            crowd = bool(rng.random() < 0.15)
            mask = box_mask(SIZE, (x, y, x + width, y + height))
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            counts: Any = rle.encode(mask).decode()
            if rng.random() < 0.3:
                counts = rle.parse_counts(counts.encode()).tolist()
            polygon = not crowd and rng.random() < 0.5
            annotations.append(
                {
                    "id": 1000 - len(annotations),
                    "image_id": 50 + image,
                    "category_id": int(rng.choice([0, 3, 7])),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd),
                    "segmentation": [[float(c) for c in corners]] if polygon else {"size": SIZE, "counts": counts},
                }
            )
    names = [{"id": 50 + n, "file_name": f"p/{n:03d}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(images)]
    return {"images": names, "annotations": annotations, "categories": CATEGORIES}


def random_arrays(truth: dict[str, Any], seed: int, noise: float = 6.0, crowded: bool = True) -> Arrays:
    """Predictions near the truth: shifted, of other categories, doubled, with many equal scores."""
    rng = np.random.default_rng(seed)
    boxes: list[NDArray[np.float64]] = []
    classes, scores, counts = [], [], []
    for image in truth["images"]:
        found = []
        for one in (a for a in truth["annotations"] if a["image_id"] == image["id"]):
            for _ in range(int(rng.integers(0, 4))):
                kind = one["category_id"] if rng.random() < 0.8 else int(rng.choice([0, 3, 7, NEVER_ANNOTATED]))
                found.append((_moved(rng, one["bbox"], noise), kind))
        extra = 130 if crowded and image is truth["images"][0] else int(rng.integers(0, 5))
        found += [(_moved(rng, list(_box(rng)), 0), 0 if extra > 100 else 3) for _ in range(extra)]
        # Two digits: many detections have one score.
        given = np.sort(np.round(rng.random(len(found)), 2))[::-1]
        boxes += [box for box, _ in found]
        classes += [kind for _, kind in found]
        scores += given.tolist()
        counts.append(len(found))
    whole = [tuple(int(side) for side in np.round(box)) for box in boxes]
    masks = [rle.encode(box_mask(SIZE, box)) for box in whole]  # type: ignore[arg-type]
    return {
        "image_file": np.array([image["file_name"] for image in truth["images"]]),
        "image_sha256": digests([image["file_name"] for image in truth["images"]]),
        "image_size": np.array([SIZE] * len(counts), np.int32),
        "status": np.zeros(len(counts), np.uint8),
        "error": np.zeros(len(counts), "U1"),
        "offsets": np.cumsum([0, *counts], dtype=np.int64),
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.array(classes, np.int32),
        "scores": np.array(scores, np.float32),
        "masks": np.frombuffer(b"".join(masks), np.uint8).copy(),
        "mask_offsets": np.cumsum([0, *map(len, masks)], dtype=np.int64),
        "meta": np.array(json.dumps({key: value for key, value in META.items() if key != "attribute_names"} | {
            "categories": CATEGORIES})),
    }  # fmt: skip


def _box(rng: np.random.Generator) -> tuple[int, int, int, int]:
    width, height = (int(side) for side in rng.choice([8, 20, 40, 120, 140], 2))
    return int(rng.integers(0, SIZE[1] - width)), int(rng.integers(0, SIZE[0] - height)), width, height


def _moved(rng: np.random.Generator, box: list[int], noise: float) -> NDArray[np.float64]:
    x, y, width, height = box
    corners = np.array([x, y, x + width, y + height]) + rng.normal(0, noise, 4) * (rng.random() < 0.7)
    low = np.clip(corners[:2], 0, np.array([SIZE[1], SIZE[0]]) - 2)
    high = np.clip(corners[2:], low + 1, [SIZE[1], SIZE[0]])
    return np.concatenate((low, high))


def stored(tmp_path: Path, arrays: Arrays, truth: dict[str, Any], name: str = "p") -> tuple[Predictions, Path]:
    """Both as files, and read again."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    return Predictions.load(save(arrays, tmp_path / f"{name}.npz")), path


def reference(predictions: Predictions, annotations: Path, iou: Iou) -> COCOeval:
    """What pycocotools makes of the two, called as its own example does; `stats` are the twelve figures."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        ids = np.array([image["id"] for image in truth.dataset["images"]])
        results = [one for one in predictions.to_coco(ids) if one["category_id"] in truth.cats]
        for one in results if iou == "segm" else ():
            del one["bbox"]  # or else loadRes would take the boxes' areas
        evaluation = COCOeval(truth, truth.loadRes(results), iou)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
