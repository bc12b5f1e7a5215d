"""How far two predictions of the same images agree: labels, scores and masks, instance by instance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from orchestrator.errors import PredictionsError
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED


@dataclass(frozen=True)
class Tolerances:
    """What still counts as equal: difference of scores at most, intersection over union of masks at least."""

    score: float = 1e-4
    mask_iou: float = 0.999


@dataclass(frozen=True)
class ImageAgreement:
    """One image: `instances` are pairs; `alone` has found no partner in the other predictions.

    `at_floor` of them have none because their score is within the tolerance of the score floor.
    """

    image_file: str
    instances: int
    alone: int
    at_floor: int
    score_difference: float
    least_iou: float
    attribute_difference: float
    box_difference: float
    image_score_difference: float
    fault: str | None = None

    def is_equal(self, tolerances: Tolerances) -> bool:
        """Whether everything is within the tolerances."""
        return (
            self.fault is None
            and self.alone == self.at_floor
            and max(self.score_difference, self.image_score_difference) <= tolerances.score
            and self.least_iou >= tolerances.mask_iou
        )


@dataclass(frozen=True)
class Agreement:
    """All images, and the tolerances they are held against."""

    tolerances: Tolerances
    images: tuple[ImageAgreement, ...]

    @property
    def equal(self) -> bool:
        """Whether all images agree, and there was something to agree on."""
        found = any(image.instances or image.image_score_difference == 0 for image in self.images)
        return found and all(image.is_equal(self.tolerances) for image in self.images)

    def as_json(self) -> dict[str, Any]:
        """For files and --json; boxes and attributes are for information, nothing is held against them."""
        worst = {
            "score_difference": max((one.score_difference for one in self.images), default=0.0),
            "least_iou": min((one.least_iou for one in self.images), default=1.0),
            "attribute_difference": max((one.attribute_difference for one in self.images), default=0.0),
            "box_difference": max((one.box_difference for one in self.images), default=0.0),
            "image_score_difference": max((one.image_score_difference for one in self.images), default=0.0),
        }
        return {
            "equivalent": self.equal,
            "tolerances": asdict(self.tolerances),
            "instances": sum(one.instances for one in self.images),
            "without_partner": sum(one.alone for one in self.images),
            "at_score_floor": sum(one.at_floor for one in self.images),
            **worst,
            "images": [{**asdict(one), "equal": one.is_equal(self.tolerances)} for one in self.images],
        }


def agreement(first: Predictions, second: Predictions, tolerances: Tolerances) -> Agreement:
    """Hold two predictions of the same images against each other. PredictionsError when the images are not the same."""
    if first.files != second.files:
        raise PredictionsError("the two runs do not have the same images")
    floor = first.meta.get("score_threshold")
    compared = (_compare(first, second, index, floor, tolerances) for index in range(len(first)))
    return Agreement(tolerances, tuple(compared))


def _compare(
    first: Predictions, second: Predictions, index: int, floor: float | None, tolerances: Tolerances
) -> ImageAgreement:
    one, other = first[index], second[index]
    fault = None
    if one["status"] != other["status"]:
        failed = one if one["status"] != STATUS_PREDICTED else other
        fault = f"failed in one of the two: {failed['error']}"
    elif one["image_size"] != other["image_size"]:
        fault = f"of size {one['image_size']} and {other['image_size']}"
    if fault is not None:
        return ImageAgreement(one["image_file"], 0, 0, 0, 0.0, 1.0, 0.0, 0.0, 0.0, fault)
    pairs = list(_pairs(one, other, tolerances))
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    lonely = np.concatenate([np.delete(one["scores"], left), np.delete(other["scores"], right)])
    return ImageAgreement(
        image_file=one["image_file"],
        instances=len(pairs),
        alone=len(lonely),
        at_floor=0 if not floor else int((np.abs(lonely - floor) <= tolerances.score).sum()),
        score_difference=_largest(one["scores"][left], other["scores"][right]),
        least_iou=min((pair[2] for pair in pairs), default=1.0),
        attribute_difference=_largest(one.get("attributes"), other.get("attributes"), left, right),
        box_difference=_largest(one["boxes"][left], other["boxes"][right]),
        image_score_difference=_largest(
            np.array([one.get("image_score", np.nan)]), np.array([other.get("image_score", np.nan)])
        ),
    )


def _pairs(one: dict[str, Any], other: dict[str, Any], tolerances: Tolerances) -> Iterator[tuple[int, int, float]]:
    """(row, row, IoU) of instances of the same class, the likest first; each row in one pair at most."""
    if not len(one["scores"]) or not len(other["scores"]):
        return
    overlap = np.asarray(coco_mask.iou(one["masks"], other["masks"], [0] * len(other["masks"])))
    apart = np.abs(one["scores"][:, None] - other["scores"][None])
    both_empty = _areas(one)[:, None] + _areas(other)[None] == 0
    overlap = np.where(both_empty, 1.0, overlap)
    rows, columns = np.nonzero(one["classes"][:, None] == other["classes"][None])
    ious, differences = overlap[rows, columns], apart[rows, columns]
    outside = (ious < tolerances.mask_iou).astype(int) + (differences > tolerances.score)
    used: tuple[set[int], set[int]] = set(), set()
    for place in np.lexsort((differences, -ious, outside)).tolist():
        row, column = int(rows[place]), int(columns[place])
        if row not in used[0] and column not in used[1]:
            used[0].add(row)
            used[1].add(column)
            yield row, column, float(ious[place])


def _areas(record: dict[str, Any]) -> NDArray[np.float64]:
    return np.asarray(coco_mask.area(record["masks"]), np.float64)


def _largest(
    one: NDArray[Any] | None, other: NDArray[Any] | None, left: list[int] | None = None, right: list[int] | None = None
) -> float:
    """The largest difference between two arrays, or rows of them; 0 where either is not there."""
    if one is None or other is None:
        return 0.0
    apart = np.abs(
        (one if left is None else one[left]).astype(np.float64)
        - (other if right is None else other[right]).astype(np.float64)
    )
    return float(np.nanmax(apart)) if apart.size and not np.isnan(apart).all() else 0.0
