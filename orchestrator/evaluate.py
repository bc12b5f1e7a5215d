"""COCO metrics of predictions against annotations, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from orchestrator import rle
from orchestrator.annotations import match_images, read_annotations
from orchestrator.errors import OrchError, PredictionsError, UsageError
from orchestrator.predictions import Predictions

MAX_COORDINATE = 1e5  # pixels; pycocotools walks along a polygon's edges, so one far away takes all memory


@dataclass(frozen=True)
class CategoryMetrics:
    """Average precision of one category; None where the annotations have no instance of it."""

    id: int
    name: str
    ap: float | None


@dataclass(frozen=True)
class Metrics:
    """COCO's average precision at IoU .50:.05:.95, .50 and .75, in [0, 1]; None where nothing is annotated.

    `images` are the annotated images, all of which count; `missing` of them are not among the predictions.
    """

    iou: str
    ap: float | None
    ap50: float | None
    ap75: float | None
    per_category: tuple[CategoryMetrics, ...]
    images: int
    missing: int


def evaluate(predictions: Predictions, annotations: Path, iou: Literal["segm", "bbox"] = "segm") -> Metrics:
    """Compare predictions with a COCO annotation file.

    PredictionsError when an image is not annotated, its sizes disagree, or the predictions are broken;
    UsageError when the annotations are.
    """
    dataset = read_annotations(annotations)
    ids = match_images(predictions, dataset, annotations)
    _check_sizes(predictions, dataset, ids, annotations)
    _check_predictions(predictions)
    _check_truth(dataset, annotations, iou)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(dataset)
        results = list(predictions.to_coco(ids))
        found = truth.loadRes(results) if results else _coco({**dataset, "annotations": []})
        evaluation = COCOeval(truth, found, iou)
        evaluation.evaluate()
        evaluation.accumulate()
    return _metrics(evaluation, dataset, iou, missing=len(dataset["images"]) - len(ids))


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    # Ids from 1: COCOeval takes the id 0 for "matches nothing". Left-out fields get what they mean.
    numbered = [
        {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3], **entry, "id": number}
        for number, entry in enumerate(dataset["annotations"], start=1)
    ]
    coco.dataset = cast(Any, {"info": {}, **dataset, "annotations": numbered})
    coco.createIndex()
    return coco


def _metrics(evaluation: COCOeval, dataset: dict[str, Any], iou: str, missing: int) -> Metrics:
    # precision is (thresholds, recalls, categories, areas, numbers of detections); -1: nothing annotated.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    thresholds = evaluation.params.iouThrs
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    return Metrics(
        iou=iou,
        ap=_mean(precision),
        ap50=_mean(precision[np.isclose(thresholds, 0.5)]),
        ap75=_mean(precision[np.isclose(thresholds, 0.75)]),
        per_category=tuple(
            CategoryMetrics(category, names[category], _mean(precision[:, :, place]))
            for place, category in enumerate(evaluation.params.catIds)
        ),
        images=len(dataset["images"]),
        missing=missing,
    )


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _check_sizes(predictions: Predictions, dataset: dict[str, Any], ids: NDArray[np.int64], source: Path) -> None:
    """Masks of another size would silently match nothing."""
    images = {image["id"]: image for image in dataset["images"]}
    sizes = predictions.image_size.tolist()
    for file, failed, size, image_id in zip(
        predictions.files, predictions.status.tolist(), sizes, ids.tolist(), strict=True
    ):
        annotated = [images[image_id].get("height"), images[image_id].get("width")]
        if not failed and None not in annotated and annotated != size:
            turned = annotated == size[::-1]
            raise PredictionsError(
                f"{file} is {size[1]}x{size[0]} pixels, but {annotated[1]}x{annotated[0]} in {source}",
                why="the annotations and the predictions disagree on EXIF rotation" if turned else None,
                hint="orch run --exif apply|ignore, whichever the annotations follow" if turned else None,
            )


def _check_predictions(predictions: Predictions) -> None:
    problems = predictions.validate(limit=1)
    serious = [problem for problem in problems if problem.array != "meta"]
    if serious:
        raise PredictionsError(
            f"{predictions.path or 'the predictions'} cannot be evaluated",
            why=str(serious[0]),
            hint=f"orch validate {predictions.path or 'FILE'}",
        )


def _check_truth(dataset: dict[str, Any], source: Path, iou: str) -> None:
    """pycocotools trusts what it is given: wrong run lengths there read and write outside its memory."""
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        fault = None
        if iou == "segm":
            fault = _segmentation_fault(annotation.get("segmentation"), sizes.get(annotation["image_id"]))
        if len(annotation["bbox"]) != 4 or not _numbers([*annotation["bbox"], annotation.get("area", 0)]):
            fault = "its bbox or area is not made of numbers"
        if fault:
            raise UsageError(f"annotation {annotation['id']} of {source} cannot be used", why=fault)


def _segmentation_fault(segmentation: Any, size: tuple[Any, Any] | None) -> str | None:
    if size is None or not _whole(list(size)):
        return "its image has no height and width"
    if isinstance(segmentation, list):
        if all(_polygon(points) for points in segmentation) and segmentation:
            return None
        return "its segmentation is no list of polygons of at least three points"
    if not isinstance(segmentation, dict) or list(segmentation.get("size", ())) != list(size):
        return "its segmentation is neither polygons nor run lengths of the image's size"
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        right = _whole(counts) and sum(counts) == size[0] * size[1]
        return None if right else "its run lengths do not add up to the image's size"
    if not isinstance(counts, str):
        return "its segmentation has no counts"
    try:
        rle.check(counts.encode(), size)
    except OrchError as error:
        return error.why
    return None


def _polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and _numbers(points)
        and all(abs(value) <= MAX_COORDINATE for value in points)
    )


def _numbers(values: list[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


def _whole(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= rle.MAX_PIXELS for value in values)
