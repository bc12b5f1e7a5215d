"""Small random truths and predictions with whatever decides a figure, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import META, digests

Iou = Literal["segm", "bbox"]
Box = tuple[float, float, float, float]  # x, y, width, height
SIZES = ((100, 140), (140, 100), (97, 97))
# Areas of 1023, 1024 and 1025, of 9215, 9216 and 9217 pixels, and boxes without area.
SIDES = ((31, 33), (32, 32), (16, 64), (25, 41), (95, 97), (96, 96), (73, 97), (8, 8), (40, 20), (0, 9), (0, 0))
AREAS = (0, 1023.5, 1024, 1024.5, 1025, 9215, 9216, 9216.5, 9217)
CATEGORIES = (0, 1, 5, 90, -3, 1 << 30)
UNKNOWN_CATEGORY = 77
IDS: dict[str, list[int | float | str]] = {
    "numbers": list(range(60)),
    "negative": list(range(-30, 30)),
    "beyond int64": [(1 << 63) + n for n in range(30)],
    "beyond uint64": [(1 << 70) + n for n in range(30)],
    "floats": [n / 4 for n in range(-10, 30)],
    "texts": [f"{n % 7:x}_{n:04d}"[: 1 + n % 6] + chr(48 + n) for n in range(60)],
}
MANY = 104  # more than the hundred of a category in an image that count


@dataclass(frozen=True)
class Knobs:
    """What a data set is made from; everything else is drawn by a generator with this seed."""

    seed: int
    images: int
    categories: int
    annotations: int
    """Most annotations of an image."""
    detections: int
    """Most detections of an image."""
    scores: int
    """Number of different scores: with few, many are equal."""
    ids: str
    crowds: float
    """Share of crowd regions."""
    missing: float
    """Share of annotations without area, and of those without iscrowd."""
    has_fractions: bool
    """Whether boxes and polygons have fractions of pixels."""
    many: Literal["", "annotations", "detections"]
    """What the first image has MANY of."""


KNOBS = st.builds(
    Knobs,
    seed=st.integers(0, 1 << 32),
    images=st.integers(1, 6),
    categories=st.integers(1, 2),
    annotations=st.integers(1, 6),
    detections=st.integers(2, 9),
    scores=st.integers(1, 6),
    ids=st.sampled_from(sorted(IDS, key="numbers".__ne__)),
    crowds=st.sampled_from([0.0, 0.3, 0.3, 1.0]),
    missing=st.sampled_from([0.0, 0.5, 1.0]),
    has_fractions=st.booleans(),
    many=st.sampled_from([*[""] * 14, "annotations", "detections"]),
)


def make_set(knobs: Knobs) -> tuple[dict[str, Any], Predictions]:
    """Return a COCO data set and predictions of some of its images, in another order."""
    rng = Random(knobs.seed)
    categories = rng.sample(CATEGORIES, knobs.categories)
    images = [
        {"id": image_id, "file_name": f"{n}.png", "height": height, "width": width}
        for n, image_id in enumerate(rng.sample(IDS[knobs.ids], knobs.images))
        for height, width in [rng.choice(SIZES)]
    ]
    annotations = []
    for number, image in enumerate(images):
        count = MANY if knobs.many == "annotations" and not number else rng.randint(0, knobs.annotations)
        boxes: list[Box] = []
        for _ in range(count):
            boxes.append(_draw_box(rng, knobs, image, boxes))
            annotations.append(_annotate(rng, knobs, image, boxes[-1], rng.choice(categories)))
    rng.shuffle(annotations)
    for number, annotation in zip(rng.sample(range(1, 1000), len(annotations)), annotations, strict=True):
        annotation["id"] = number  # from 1: COCOeval understands the id 0 as "matches nothing"
    truth = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": f"c{number}"} for number in categories],
    }
    return truth, _predict(rng, knobs, truth)


def _draw_box(rng: Random, knobs: Knobs, image: dict[str, Any], others: Sequence[Box]) -> Box:
    """Return a box inside the image, perhaps that of another instance, perhaps moved a little."""
    if others and rng.random() < 0.8:
        x, y, width, height = rng.choice(others)
        step = rng.choice([0, 0, 1, -1, 3, -3])
        x, y = (x + step, y) if rng.random() < 0.5 else (x, y + step)
    else:
        width, height = rng.choice(SIDES)
        x, y = rng.randint(0, 40), rng.randint(0, 40)
        if knobs.has_fractions:
            x, y, width, height = (side + rng.choice([0, 0.25, 0.5]) for side in (x, y, width, height))
    x, y = min(max(x, 0), image["width"]), min(max(y, 0), image["height"])
    return x, y, min(width, image["width"] - x), min(height, image["height"] - y)


def _encode(rng: Random, image: dict[str, Any], box: Box) -> dict[str, Any]:
    """Return the mask of a box's whole pixels as compressed RLE, or of half of them."""
    x, y, width, height = box
    mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
    mask[round(y) : round(y + height), round(x) : round(x + width)] = 1
    if rng.random() < 0.2:
        mask[round(y) :: 2] = 0
    encoded: dict[str, Any] = coco_mask.encode(mask)
    return encoded


def _annotate(rng: Random, knobs: Knobs, image: dict[str, Any], box: Box, category: int) -> dict[str, Any]:
    x, y, width, height = box
    mask = _encode(rng, image, box)
    kind = rng.choice(["polygons", "compressed", "run lengths"])
    if kind == "polygons":
        segmentation: Any = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if rng.random() < 0.3:
            segmentation.append([x, y, x + width / 2, y + height / 3, x, y + height])
        mask = coco_mask.merge(coco_mask.frPyObjects(segmentation, image["height"], image["width"]))
    elif kind == "compressed":
        segmentation = {"size": mask["size"], "counts": mask["counts"].decode()}
    else:
        segmentation = {"size": mask["size"], "counts": rle.parse_counts(mask["counts"]).tolist()}
    annotation = {
        "image_id": image["id"],
        "category_id": category,
        "bbox": list(box),
        "segmentation": segmentation,
        "area": rng.choice([float(coco_mask.area(mask)), width * height, rng.choice(AREAS)]),
        "iscrowd": int(rng.random() < knobs.crowds),
    }
    for name in ("area", "iscrowd"):
        if rng.random() < knobs.missing and not (name == "iscrowd" and annotation[name]):
            del annotation[name]
    return annotation


def _predict(rng: Random, knobs: Knobs, truth: dict[str, Any]) -> Predictions:
    """Return predictions near the annotations of some images."""
    images = rng.sample(truth["images"], max(1, len(truth["images"]) - rng.choice([0, 0, 1])))
    boxes: list[Box] = []
    classes: list[int] = []
    scores: list[float] = []
    masks: list[bytes] = []
    counts: list[int] = []
    ids = [category["id"] for category in truth["categories"]]
    for image in images:
        annotated = [tuple(one["bbox"]) for one in truth["annotations"] if one["image_id"] == image["id"]]
        has_many = knobs.many == "detections" and image is truth["images"][0]
        count = MANY if has_many else rng.randint(0, knobs.detections)
        levels = sorted((rng.randint(1, knobs.scores) / knobs.scores for _ in range(count)), reverse=True)
        for score in levels:
            box = _draw_box(rng, knobs, image, annotated)
            boxes.append(box)
            classes.append(ids[0] if has_many else rng.choice([*ids, *ids, *ids, UNKNOWN_CATEGORY]))
            scores.append(score)
            masks.append(_encode(rng, image, box)["counts"])
        counts.append(count)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    files = [image["file_name"] for image in images]
    known = [*truth["categories"], {"id": UNKNOWN_CATEGORY, "name": "unknown"}]
    return Predictions(
        {
            "image_file": np.array(files),
            "image_sha256": digests(files),
            "image_size": np.array([(image["height"], image["width"]) for image in images], np.int32),
            "status": np.zeros(len(images), np.uint8),
            "error": np.zeros(len(images), "U1"),
            "offsets": np.cumsum([0, *counts], dtype=np.int64),
            "boxes": corners.astype(np.float32),
            "classes": np.array(classes, np.int32),
            "scores": np.array(scores, np.float32),
            "masks": np.frombuffer(b"".join(masks), np.uint8),
            "mask_offsets": np.cumsum([0, *map(len, masks)], dtype=np.int64),
            "meta": np.array(json.dumps({key: META[key] for key in META if key != "attribute_names"} | {
                "categories": known})),
        }
    )  # fmt: skip


def evaluate_with_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], iou: Iou) -> COCOeval:
    """Return COCOeval's evaluation; a missing iscrowd is 0, a missing area the mask's or, for boxes, the box's."""
    expected, given = COCO(), COCO()
    annotations = [dict(annotation) for annotation in truth["annotations"]]
    expected.dataset = {**truth, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        expected.createIndex()
        for annotation in annotations:
            annotation.setdefault("iscrowd", 0)
            if "area" not in annotation:
                mask, box = expected.annToRLE(annotation), annotation["bbox"]
                annotation["area"] = float(coco_mask.area(mask)) if iou == "segm" else box[2] * box[3]
        kept = [one for one in results if one["category_id"] in expected.cats]
        for one in kept if iou == "segm" else ():
            del one["bbox"]  # or else loadRes would take the boxes' areas
        evaluation = COCOeval(expected, expected.loadRes(kept) if kept else given, iou)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def to_results(truth: dict[str, Any], predictions: Predictions) -> list[dict[str, Any]]:
    """Return COCO results with the truth's own ids of images."""
    by_file = {image["file_name"]: image["id"] for image in truth["images"]}
    ids: NDArray[Any] = np.empty(len(predictions), object)
    ids[:] = [by_file[file] for file in predictions.files]
    return list(predictions.to_coco(ids))
