"""COCO's matching of detections with annotations, for every instance at once: what counts, curves of resampled images
and pictures are made from. The engines give averages only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.ground_truth import Iou, Truth

MAX_PER_CATEGORY = 100  # detections of one category in one image that count, COCO's largest maxDets
ALMOST_ONE = 1 - 1e-10  # as pycocotools bounds its thresholds


@dataclass(frozen=True)
class Matches:
    """D detections that count, by image and category, best first, each with its annotation at T thresholds.

    `place` (D,) is the detection's place in the `Detections` matched. `partner` (T,D) is its annotation's place in
    the truth, -1 for none. `ignored` (T,D): it lies in a crowd region, so it counts neither as right nor as wrong.
    """

    thresholds: NDArray[np.float64]
    place: NDArray[np.int64]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    scores: NDArray[np.float64]
    partner: NDArray[np.int64]
    ignored: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        """(T,D) true positives."""
        return (self.partner >= 0) & ~self.ignored

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(T,D) false positives."""
        return self.partner < 0


@dataclass(frozen=True)
class _Groups:
    """Categories of images that have both: group g has detections start[g] to stop[g], best first, and annotations
    `number` (groups, width), crowds last, padded with -1."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    number: NDArray[np.int64]


def match(truth: Truth, found: Detections, iou: Iou, thresholds: NDArray[np.float64]) -> Matches:
    """Match as COCOeval.evaluateImg does (area range "all", maxDets 100), at `thresholds` (T,)."""
    order, first_of_group = _ordered(found)
    columns = found.selected(order)
    shape = (len(thresholds), len(order))
    partner, ignored = np.full(shape, -1, np.int64), np.zeros(shape, bool)
    limits = np.minimum(thresholds, ALMOST_ONE)
    overlaps = _mask_overlaps(truth, columns) if iou == "segm" else _box_overlaps(truth, columns)
    for groups in _buckets(truth, columns, first_of_group):
        _match_groups(groups, overlaps(groups), truth.crowd, limits, partner)
    ignored[partner >= 0] = truth.crowd[partner[partner >= 0]]
    return Matches(thresholds, order, columns.image, columns.category, columns.scores, partner, ignored)


def counted(found: Detections) -> NDArray[np.int64]:
    """The places of the detections that count: the best hundred of each category in each image."""
    return _ordered(found)[0]


def _ordered(found: Detections) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places by image, category and falling score, the best hundred of each; and where each group begins."""
    order = np.lexsort((-found.scores, found.category, found.image))
    new = np.ones(len(order), bool)
    same_image = np.diff(found.image[order]) == 0
    new[1:] = ~(same_image & (np.diff(found.category[order]) == 0))
    start = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(start, np.diff(np.append(start, len(order))))
    kept = rank < MAX_PER_CATEGORY
    return order[kept], np.append(np.flatnonzero(new[kept]), int(kept.sum()))


def _buckets(truth: Truth, found: Detections, starts: NDArray[np.int64]) -> Iterator[_Groups]:
    """Groups of similar numbers of annotations together: they are matched side by side, padded to one width."""
    if not len(truth.image) or not len(found):
        return
    annotated = np.lexsort((truth.crowd, truth.category, truth.image))
    span = int(max(truth.category.max(), found.category.max())) + 1
    keys = truth.image[annotated] * span + truth.category[annotated]
    wanted = found.image[starts[:-1]] * span + found.category[starts[:-1]]
    lower, upper = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
    count = upper - lower
    sizes = np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
    for size in np.unique(sizes[count > 0]):
        chosen = np.flatnonzero((sizes == size) & (count > 0))
        chosen = chosen[np.argsort(starts[chosen] - starts[chosen + 1], kind="stable")]  # most detections first
        place = lower[chosen, None] + np.arange(count[chosen].max())
        number = np.where(place < upper[chosen, None], annotated[np.minimum(place, len(annotated) - 1)], -1)
        yield _Groups(starts[chosen], starts[chosen + 1], number)


Overlaps = Callable[[_Groups], NDArray[np.float64]]


def _box_overlaps(truth: Truth, found: Detections) -> Overlaps:
    """As pycocotools' bbIou: with a crowd region, the share of the detection that lies in it."""
    theirs = np.concatenate((truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]), axis=1)
    ours = np.concatenate((found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]), axis=1)
    their_area, our_area = (boxes[:, 2] * boxes[:, 3] for boxes in (truth.boxes, found.boxes))

    def overlaps(groups: _Groups) -> NDArray[np.float64]:
        rows, number = _rows(groups)
        sides = np.minimum(ours[rows, None, 2:], theirs[number, 2:]) - np.maximum(
            ours[rows, None, :2], theirs[number, :2]
        )
        shared = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
        area = our_area[rows, None]
        union = np.where(truth.crowd[number], area, area + their_area[number] - shared)
        found_share = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
        return np.where(number >= 0, found_share, -1.0)

    return overlaps


def _mask_overlaps(truth: Truth, found: Detections) -> Overlaps:
    """By pycocotools' own code; all masks were checked before."""
    from pycocotools import mask as coco_mask

    theirs, crowds = truth.masks or [], truth.crowd.astype(np.uint8).tolist()

    def overlaps(groups: _Groups) -> NDArray[np.float64]:
        found_share = np.full((int((groups.stop - groups.start).sum()), groups.number.shape[1]), -1.0)
        row = 0
        for start, stop, numbers in zip(
            groups.start.tolist(), groups.stop.tolist(), groups.number.tolist(), strict=True
        ):
            there = [number for number in numbers if number >= 0]
            masks, crowd = [theirs[number] for number in there], [crowds[number] for number in there]
            found_share[row : row + stop - start, : len(there)] = coco_mask.iou(
                found.masks(slice(start, stop)), masks, crowd
            )
            row += stop - start
        return found_share

    return overlaps


def _rows(groups: _Groups) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The detections of all groups one after another, and beside each its group's annotations."""
    count = groups.stop - groups.start
    first = np.cumsum(count) - count
    rows = np.arange(int(count.sum())) + np.repeat(groups.start - first, count)
    return rows, np.repeat(groups.number, count, axis=0)


def _match_groups(
    groups: _Groups,
    overlaps: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    limits: NDArray[np.float64],
    partner: NDArray[np.int64],
) -> None:
    """Give each detection in turn the free annotation it overlaps most; crowds are never used up. Fills `partner`.

    `overlaps` has the groups' detections one after another.
    """
    number, width = groups.number, groups.number.shape[1]
    depth = groups.stop - groups.start
    first = np.cumsum(depth) - depth
    many = crowd[number] & (number >= 0)
    free = np.repeat((number >= 0)[:, None], len(limits), axis=1)  # (groups, T, width)
    for rank in range(int(depth[0])):
        count = int(np.searchsorted(-depth, -rank))  # the groups that have so many detections
        overlap = overlaps[first[:count] + rank, None]
        fits = free[:count] & (overlap >= limits[:, None])
        single = fits & ~many[:count, None]
        # Where no single annotation fits, a crowd may.
        fits = np.where(single.any(axis=2, keepdims=True), single, fits)
        # Of equal overlaps COCOeval takes the last.
        best = width - 1 - np.argmax(np.where(fits, overlap, -1.0)[:, :, ::-1], axis=2)
        rows, levels = np.nonzero(fits.any(axis=2))
        chosen = best[rows, levels]
        partner[levels, groups.start[rows] + rank] = number[rows, chosen]
        free[rows, levels, chosen] = many[rows, chosen]
