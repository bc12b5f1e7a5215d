"""How far two predictions agree: within tolerances (two variants) or by overlap (two models)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from orchestrator.errors import PredictionsError
from orchestrator.evaluation.coco.ground_truth import Iou
from orchestrator.evaluation.runs import OpenedRun
from orchestrator.predictions import STATUS_PREDICTED, Predictions, Record, rle, to_xywh

LEVELS = (0.5, 0.75, 0.9)  # IoU from which instances of two models are a pair
MOST_DIFFERENT_IMAGES = 5


@dataclass(frozen=True)
class Tolerances:
    """What counts as equal: the largest difference of scores, the smallest IoU of masks."""

    score: float = 1e-4
    mask_iou: float = 0.999


@dataclass(frozen=True)
class ImageAgreement:
    """One image in two predictions: `instances` are pairs, `alone` instances without a partner.

    `at_floor` of those have none because their score is within the tolerance of the score floor.
    """

    image_file: str
    instances: int
    alone: int
    at_floor: int
    score_difference: float
    least_iou: float
    attribute_difference: float
    box_difference: float
    image_score_difference: float | None
    """None where one of the two gives no score of the image."""
    fault: str | None = None

    def is_equal(self, tolerances: Tolerances) -> bool:
        """Say whether everything is within the tolerances."""
        return (
            self.fault is None
            and self.alone == self.at_floor
            and max(self.score_difference, self.image_score_difference or 0.0) <= tolerances.score
            and self.least_iou >= tolerances.mask_iou
        )


@dataclass(frozen=True)
class ToleranceAgreement:
    """All images of two predictions, and the tolerances that decide whether they are equal."""

    tolerances: Tolerances
    images: tuple[ImageAgreement, ...]
    overlap_of: str = "mask"
    """What `least_iou` is of: "mask", or "box" where the instances have no masks."""

    @property
    def is_equal(self) -> bool:
        """Whether all images agree and at least one has something to compare."""
        has_content = any(image.instances or image.image_score_difference is not None for image in self.images)
        return has_content and all(image.is_equal(self.tolerances) for image in self.images)

    def as_json(self) -> dict[str, Any]:
        """Return what files and --json hold. Differences of boxes and attributes are information, never a verdict."""
        images = self.images
        largest = ("attribute_difference", "box_difference", "image_score_difference")
        return {
            "equivalent": self.is_equal,
            "tolerances": asdict(self.tolerances),
            "instances": sum(image.instances for image in images),
            "without_partner": sum(image.alone for image in images),
            "at_score_floor": sum(image.at_floor for image in images),
            "score_difference": max((image.score_difference for image in images), default=0.0),
            "overlap_of": self.overlap_of,
            "least_iou": min((image.least_iou for image in images), default=1.0),
            **{name: max((getattr(image, name) or 0.0 for image in images), default=0.0) for name in largest},
            "images": [{**asdict(image), "equal": image.is_equal(self.tolerances)} for image in images],
        }


@dataclass(frozen=True)
class CategoryAgreement:
    """Instances of two models in one category, and how many of them are pairs at each of LEVELS."""

    id: int
    name: str
    first: int
    second: int
    pairs: tuple[int, ...]


@dataclass(frozen=True)
class OverlapAgreement:
    """Two models over all images, by pairs of instances of one category that overlap.

    `pairs` has their number at each of LEVELS. `agreement` is 2 · pairs / (first + second): 1 when every instance has
    a partner, None when neither has any.
    """

    first_label: str
    second_label: str
    first: int
    second: int
    pairs: tuple[int, ...]
    agreement: tuple[float | None, ...]
    per_category: tuple[CategoryAgreement, ...]
    images_apart: tuple[str, ...]


def compare_within_tolerances(first: Predictions, second: Predictions, tolerances: Tolerances) -> ToleranceAgreement:
    """Compare two predictions instance by instance. PredictionsError when they are of other images."""
    if first.files != second.files:
        raise PredictionsError("the two runs do not have the same images")
    floor = first.meta.get("score_threshold")
    records = zip(first, second, strict=True)
    kind = "box" if first.is_boxes_only or second.is_boxes_only else "mask"
    images = tuple(_compare_records(*pair, floor, tolerances) for pair in records)
    return ToleranceAgreement(tolerances, images, kind)


def _compare_records(first: Record, second: Record, floor: float | None, tolerances: Tolerances) -> ImageAgreement:
    fault = None
    scores = np.array([one.get("image_score", np.nan) for one in (first, second)])
    if first["status"] != second["status"]:
        failed = first if first["status"] != STATUS_PREDICTED else second
        fault = f"failed in one of the two: {failed['error']}"
    elif first["image_size"] != second["image_size"]:
        fault = f"of size {first['image_size']} and {second['image_size']}"
    elif ("masks" in first) != ("masks" in second) and len(first["scores"]) and len(second["scores"]):
        fault = "only one of the two has masks"
    elif np.isnan(scores[0]) != np.isnan(scores[1]):
        fault = "only one of the two has a score of the image"
    if fault is not None:
        return ImageAgreement(first["image_file"], 0, 0, 0, 0.0, 1.0, 0.0, 0.0, None, fault)
    pairs = list(_pair_records(first, second, tolerances))
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    alone = np.concatenate([np.delete(first["scores"], left), np.delete(second["scores"], right)])
    return ImageAgreement(
        image_file=first["image_file"],
        instances=len(pairs),
        alone=len(alone),
        at_floor=0 if not floor else int((np.abs(alone - floor) <= tolerances.score).sum()),
        score_difference=_largest_difference(first["scores"][left], second["scores"][right]),
        least_iou=min((pair[2] for pair in pairs), default=1.0),
        attribute_difference=_largest_difference(first["attributes"][left], second["attributes"][right])
        if "attributes" in first and "attributes" in second
        else 0.0,
        box_difference=_largest_difference(first["boxes"][left], second["boxes"][right]),
        image_score_difference=None if np.isnan(scores).any() else _largest_difference(scores[:1], scores[1:]),
    )


def _pair_records(first: Record, second: Record, tolerances: Tolerances) -> Iterator[tuple[int, int, float]]:
    """Yield (row, row, IoU) of instances of the same class, the most similar first, each row at most once.

    The IoU is that of masks, or of boxes where one of the two has no masks.
    """
    if not len(first["scores"]) or not len(second["scores"]):
        return
    if "masks" in first and "masks" in second:
        iou = np.asarray(coco_mask.iou(first["masks"], second["masks"], [0] * len(second["masks"])))
        areas, other_areas = (rle.measure_areas(one["masks"]) for one in (first, second))
    else:
        shapes, other_shapes = (to_xywh(one["boxes"]) for one in (first, second))
        iou = np.asarray(coco_mask.iou(shapes, other_shapes, [0] * len(other_shapes)))
        areas, other_areas = (one[:, 2] * one[:, 3] for one in (shapes, other_shapes))
    iou = np.where(areas[:, None] + other_areas[None] == 0, 1.0, iou)  # two empty masks are equal
    rows, columns = np.nonzero(first["classes"][:, None] == second["classes"][None])
    ious, differences = iou[rows, columns], np.abs(first["scores"][rows] - second["scores"][columns])
    outside = (ious < tolerances.mask_iou).astype(int) + (differences > tolerances.score)
    for index in _pair_greedily(rows, columns, np.lexsort((differences, -ious, outside))):
        yield int(rows[index]), int(columns[index]), float(ious[index])


def _largest_difference(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the largest difference between two arrays of one shape; 0 where nothing can be compared."""
    difference = np.abs(first.astype(np.float64) - second.astype(np.float64))
    return float(np.nanmax(difference)) if difference.size and not np.isnan(difference).all() else 0.0


def compare_by_overlap(runs: Sequence[OpenedRun], iou: Iou, min_score: float) -> list[OverlapAgreement]:
    """Compare every two runs of the same images, by instances that score at least `min_score`."""
    return [_compare_models(first, second, iou, min_score) for first, second in combinations(runs, 2)]


def _compare_models(first: OpenedRun, second: OpenedRun, iou: Iou, min_score: float) -> OverlapAgreement:
    files = first.predictions.files
    names = {int(entry["id"]): str(entry["name"]) for entry in first.predictions.meta.get("categories", [])}
    counts = {number: np.zeros(2 + len(LEVELS), np.int64) for number in names}
    shares = np.ones(len(files))
    for index, file in enumerate(files):
        of_image = count_pairs(first.predictions, second.predictions, file, iou, min_score)
        for number, values in of_image.items():
            counts[number] += values
        shares[index] = _share(sum(of_image.values(), np.zeros(2 + len(LEVELS), np.int64)))
    total = sum(counts.values(), np.zeros(2 + len(LEVELS), np.int64)).tolist()
    most_different = np.argsort(shares, kind="stable")[:MOST_DIFFERENT_IMAGES]
    return OverlapAgreement(
        first_label=first.label,
        second_label=second.label,
        first=total[0],
        second=total[1],
        pairs=tuple(total[2:]),
        agreement=tuple(2 * pairs / (total[0] + total[1]) if total[0] + total[1] else None for pairs in total[2:]),
        per_category=tuple(
            CategoryAgreement(number, names[number], int(values[0]), int(values[1]), tuple(values[2:].tolist()))
            for number, values in counts.items()
        ),
        images_apart=tuple(files[image] for image in most_different.tolist() if shares[image] < 1),
    )


def measure_agreement(first: Predictions, second: Predictions, file: str, iou: Iou, min_score: float) -> float:
    """Return the share of an image's instances that have a partner; 1 if there are no instances."""
    counts = count_pairs(first, second, file, iou, min_score)
    return _share(sum(counts.values(), np.zeros(2 + len(LEVELS), np.int64)))


def _share(counts: NDArray[np.int64]) -> float:
    instances = int(counts[0] + counts[1])
    return 2 * int(counts[2]) / instances if instances else 1.0


def count_pairs(
    first: Predictions, second: Predictions, file: str, iou: Iou, min_score: float
) -> dict[int, NDArray[np.int64]]:
    """Count by category the image's instances in the first, in the second, and pairs at LEVELS."""
    rows, others = (select_rows(run, run.index(file), min_score) for run in (first, second))
    classes, other_classes = first.classes[rows], second.classes[others]
    counts = {}
    for number in np.union1d(classes, other_classes).tolist():
        ours, theirs = rows[classes == number], others[other_classes == number]
        pairs = _count_levels(_compute_overlaps(first, ours, second, theirs, iou))
        counts[number] = np.array([len(ours), len(theirs), *pairs], np.int64)
    return counts


def select_rows(predictions: Predictions, image: int, min_score: float) -> NDArray[np.int64]:
    """Return the rows of an image's instances that score at least `min_score`."""
    part = predictions.rows(image)
    rows: NDArray[np.int64] = part.start + np.flatnonzero(predictions.scores[part] >= min_score)
    return rows


def _compute_overlaps(
    first: Predictions, rows: NDArray[np.int64], second: Predictions, others: NDArray[np.int64], iou: Iou
) -> NDArray[np.float64]:
    """Return the (A,B) IoU of rows of one file with rows of another, all of one image."""
    if not len(rows) or not len(others):
        return np.zeros((len(rows), len(others)))
    shapes, other_shapes = _shapes(first, rows, iou), _shapes(second, others, iou)
    return np.asarray(coco_mask.iou(shapes, other_shapes, [0] * len(others)), np.float64)


def _shapes(predictions: Predictions, rows: NDArray[np.int64], iou: Iou) -> object:
    if iou == "bbox":
        return to_xywh(predictions.boxes[rows])
    image = int(np.searchsorted(predictions.offsets, rows[0], side="right")) - 1
    size = predictions.image_size[image].tolist()
    return [{"size": size, "counts": predictions.counts(row)} for row in rows.tolist()]


def _count_levels(iou: NDArray[np.float64]) -> list[int]:
    """Count the pairs at each of LEVELS, given (A,B) overlaps: the most overlapping two are paired first."""
    rows, columns = np.nonzero(iou >= LEVELS[0])
    ious = iou[rows, columns]
    pairs = ious[list(_pair_greedily(rows, columns, np.argsort(-ious, kind="stable")))]
    # Pairs are made from the highest overlap down, so those above a level are the same for every level.
    return [int((pairs >= level).sum()) for level in LEVELS]


def _pair_greedily(rows: NDArray[np.int64], columns: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[int]:
    """Yield those candidates (row, column), in the given order, whose row and column are both still free."""
    used_rows, used_columns = set[int](), set[int]()
    for index, row, column in zip(order.tolist(), rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            yield index
