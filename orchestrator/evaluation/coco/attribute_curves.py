"""Matches and curves of Fashionpedia's metric, category by category: a pair must reach an IoU and an F1 score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.engines import AREAS, MAX_DETECTIONS, RECALLS, THRESHOLDS
from orchestrator.evaluation.coco.ground_truth import MAX_AREA, Iou, Truth

ANY = -1.0  # a threshold that everything reaches
LEVELS = np.append(THRESHOLDS, ANY)  # of the IoU and of the F1 score
AREA_RANGES = np.array([[0, MAX_AREA], [0, 32**2], [32**2, 96**2], [96**2, MAX_AREA]])  # of AREAS
ALMOST_ONE = 1 - 1e-10  # as pycocotools bounds its thresholds
UNMATCHED, RIGHT, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class AttributeColumns:
    """How predictions say which attributes of a truth an instance has: those whose column scores above `score`.

    `columns` (A,) are those of `Predictions.attributes` in the order of the truth's attributes; -1: never predicted.
    """

    columns: NDArray[np.int64]
    score: float


def compute_f1(predicted: NDArray[np.bool_], annotated: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (d,g) F1 scores of the attributes of detections (d,A) and annotations (g,A), as scikit-learn's macro F1.

    It is the mean of the F1 of having an attribute and that of lacking one; the former alone counts if both have all
    attributes, the latter alone if both have none.
    """
    both = predicted.astype(np.int64) @ annotated.T.astype(np.int64)
    total = predicted.sum(axis=1)[:, None] + annotated.sum(axis=1)[None, :]
    attributes = annotated.shape[1]
    neither, total_lacked = attributes - total + both, 2 * attributes - total
    having = 2.0 * both / np.maximum(total, 1)
    lacking = 2.0 * neither / np.maximum(total_lacked, 1)
    mean: NDArray[np.float64] = np.where(
        total == 0, lacking, np.where(total_lacked == 0, having, (lacking + having) / 2)
    )
    return mean


def match_pairs(
    overlap: NDArray[np.float64],
    f1: NDArray[np.float64] | None,
    ignored: NDArray[np.bool_],
    reusable: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """Match d detections of one image and category, best first, with g annotations, as FPEval's evaluateImg does.

    Both `overlap` (d,g) and `f1` (d,g) must reach the levels and those of the annotation chosen so far. Annotations to
    be `ignored` (g,) come last; `reusable` ones (g,) match any number of detections. Returns (T,F,d) states; without
    `f1`, F is 1.
    """
    limits = np.minimum(LEVELS, ALMOST_ONE)
    f1_limits = limits if f1 is not None else limits[-1:]
    shape = (len(limits), len(f1_limits))
    states = np.full((*shape, len(overlap)), UNMATCHED, np.int8)
    is_free = np.ones((len(ignored), *shape), bool)
    order = np.argsort(ignored, kind="stable").tolist()
    for row in range(len(overlap)):
        best, best_f1 = np.repeat(limits[:, None], shape[1], axis=1), np.repeat(f1_limits[None], shape[0], axis=0)
        partner = np.full(shape, -1)
        for column in order:
            fits = is_free[column] & (overlap[row, column] >= best)
            if f1 is not None:
                fits &= f1[row, column] >= best_f1
            if ignored[column]:
                fits &= (partner < 0) | ignored[partner]
            best[fits] = overlap[row, column]
            if f1 is not None:
                best_f1[fits] = f1[row, column]
            partner[fits] = column
        is_matched = partner >= 0
        states[:, :, row][is_matched] = np.where(ignored[partner[is_matched]], IGNORED, RIGHT)
        for column in np.flatnonzero(~reusable).tolist():
            is_free[column] &= partner != column
    return states


@dataclass(frozen=True)
class _CategoryRows:
    """One category: its annotations by image, and its detections by image, best first, MAX_DETECTIONS[-1] of each.

    `rank` (D,) counts the detections of an image from 0.
    """

    truth: Truth
    detections: Detections
    annotated: NDArray[np.int64]
    rank: NDArray[np.int64]
    attributes: AttributeColumns | None

    def compute_f1(self, own: slice, others: slice) -> NDArray[np.float64] | None:
        """Return the F1 scores (d,g) of the attributes of detections and annotations, None if they do not count."""
        scores, truth = self.detections.predictions.attributes, self.truth.attributes
        if self.attributes is None or scores is None or truth is None:
            return None
        columns = self.attributes.columns
        has = (scores[self.detections.row[own]][:, columns] > np.float32(self.attributes.score)) & (columns >= 0)
        return compute_f1(has, truth.values[self.annotated[others]])

    def pairs(self) -> Iterator[tuple[slice, slice]]:
        """Yield the detections and the annotations of each image that has both."""
        images = self.truth.image[self.annotated]
        starts = [*np.flatnonzero(self.rank == 0).tolist(), len(self.rank)]
        for start, stop in pairwise(starts):
            image = self.detections.image[start]
            first, last = np.searchsorted(images, image), np.searchsorted(images, image, side="right")
            if first < last:
                yield slice(start, stop), slice(int(first), int(last))


def _select(truth: Truth, detections: Detections, category: int, attributes: AttributeColumns | None) -> _CategoryRows:
    annotated = np.flatnonzero(truth.category == category)
    annotated = annotated[np.argsort(truth.image[annotated], kind="stable")]
    own = np.flatnonzero(detections.category == category)
    own = own[np.lexsort((-detections.scores[own], detections.image[own]))]
    images = detections.image[own]
    rank = np.arange(len(own)) - np.searchsorted(images, images)
    is_kept = rank < MAX_DETECTIONS[-1]
    kept = detections.select(own[is_kept])
    return _CategoryRows(truth, kept, annotated, rank[is_kept], attributes)


def compute_category_curves(
    truth: Truth, detections: Detections, iou: Iou, category: int, attributes: AttributeColumns | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return average precision (A,T,F) and recall (A,T,F,M) of a category; nan where nothing is annotated.

    The axes are AREAS, LEVELS of the IoU, LEVELS of the F1 score and MAX_DETECTIONS. Without `attributes`, F is 1.
    """
    from pycocotools import mask as coco_mask

    rows = _select(truth, detections, category, attributes)
    detections = rows.detections
    theirs = truth.areas[rows.annotated]
    masks = detections.masks() if iou == "segm" else None
    ours = detections.boxes[:, 2:].prod(axis=1) if masks is None else coco_mask.area(masks).astype(np.float64)
    low, high = AREA_RANGES.T[:, :, None]
    ignored = truth.crowd[rows.annotated] | (theirs < low) | (theirs > high)  # (A,G)
    is_outside = (ours < low) | (ours > high)  # (A,D)
    reusable = truth.crowd[rows.annotated] & (attributes is None)
    states = np.full(
        (len(AREAS), len(LEVELS), 1 if attributes is None else len(LEVELS), len(detections)), UNMATCHED, np.int8
    )
    for own, others in rows.pairs():
        overlap = _overlap(rows, own, others, masks)
        f1 = rows.compute_f1(own, others)
        known: dict[bytes, NDArray[np.int8]] = {}  # most areas ignore the same annotations
        for area in range(len(AREAS)):
            key = ignored[area, others].tobytes()
            if key not in known:
                known[key] = match_pairs(overlap, f1, ignored[area, others], reusable[others])
            states[area, :, :, own] = known[key]
    states[(states == UNMATCHED) & is_outside[:, None, None]] = IGNORED
    order = np.argsort(-detections.scores, kind="stable")
    return _accumulate(states[..., order], rows.rank[order], (~ignored).sum(axis=1))


def _overlap(rows: _CategoryRows, own: slice, others: slice, masks: list[dict[str, Any]] | None) -> NDArray[np.float64]:
    from pycocotools import mask as coco_mask

    numbers = rows.annotated[others].tolist()
    crowd = rows.truth.crowd[numbers].astype(np.uint8).tolist()
    if masks is None or rows.truth.masks is None:
        shares = coco_mask.iou(rows.detections.boxes[own], rows.truth.boxes[numbers], crowd)
    else:
        shares = coco_mask.iou(masks[own], [rows.truth.masks[number] for number in numbers], crowd)
    return np.asarray(shares, np.float64)


def _accumulate(
    states: NDArray[np.int8], rank: NDArray[np.int64], annotated: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the curves of states (A,T,F,D) by falling score; `annotated` (A,) annotations count in each area."""
    precision = np.full(states.shape[:3], np.nan)
    recall = np.full((*states.shape[:3], len(MAX_DETECTIONS)), np.nan)
    for area, level in np.argwhere(np.repeat(annotated[:, None] > 0, states.shape[1], axis=1)).tolist():
        right = states[area, level] == RIGHT
        found, wrong = np.cumsum(right, axis=-1), np.cumsum(states[area, level] == UNMATCHED, axis=-1)
        share = found / (wrong + found + np.spacing(1))
        envelope = np.maximum.accumulate(share[:, ::-1], axis=-1)[:, ::-1]
        for column, (reached, values) in enumerate(zip(found / annotated[area], envelope, strict=True)):
            index = np.searchsorted(reached, RECALLS)
            precision[area, level, column] = values[index[index < len(values)]].sum() / len(RECALLS)
        for number, limit in enumerate(MAX_DETECTIONS):
            recall[area, level, :, number] = right[:, rank < limit].sum(axis=-1) / annotated[area]
    return precision, recall
