"""COCO's matching of detections with annotations, for all instances at once.

Counts, curves of resampled images and the report's pictures need matches; the engines return averages only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.federated import MAX_PER_IMAGE
from orchestrator.evaluation.coco.ground_truth import Iou, Truth

MAX_PER_CATEGORY = 100  # detections of one category in one image that count, COCO's largest maxDets
ALMOST_ONE = 1 - 1e-10  # as pycocotools bounds its thresholds


@dataclass(frozen=True)
class Matches:
    """D detections that count, by image and category, best first, and their annotations.

    `index` (D,) is the detection's index in the `Detections` matched. `partner` (T,D) is its annotation's index in
    the truth, -1 for none. `ignored` (T,D): it counts neither as right nor as wrong: it lies in a crowd region, or by
    LVIS's rules has no partner where annotations may be missing.
    """

    thresholds: NDArray[np.float64]
    index: NDArray[np.int64]
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
        return (self.partner < 0) & ~self.ignored


@dataclass(frozen=True)
class _Groups:
    """Pairs of image and category that have both detections and annotations.

    Group g has detections start[g] to stop[g], best first, and annotations `number` (groups, width), crowds last,
    padded with -1.
    """

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    number: NDArray[np.int64]


def match(truth: Truth, detections: Detections, iou: Iou, thresholds: NDArray[np.float64]) -> Matches:
    """Match as COCOeval.evaluateImg does (area range "all", maxDets 100), at IoU `thresholds` (T,), or as LVIS does."""
    order, first_of_group = _order(detections, MAX_PER_CATEGORY if truth.federation is None else MAX_PER_IMAGE)
    columns = detections.select(order)
    shape = (len(thresholds), len(order))
    partner, ignored = np.full(shape, -1, np.int64), np.zeros(shape, bool)
    limits = np.minimum(thresholds, ALMOST_ONE)
    compute_overlaps = _prepare_masks(truth, columns) if iou == "segm" else _prepare_boxes(truth, columns)
    for groups in _group(truth, columns, first_of_group):
        _match_groups(groups, compute_overlaps(groups), truth.crowd, limits, partner)
    ignored[partner >= 0] = truth.crowd[partner[partner >= 0]]
    ignored |= (partner < 0) & truth.are_partial(columns.image, columns.category)
    return Matches(thresholds, order, columns.image, columns.category, columns.scores, partner, ignored)


def find_counted(detections: Detections) -> NDArray[np.int64]:
    """Return the indices of the detections that count: the best hundred of each category in each image."""
    is_many = np.bincount(detections.image)[detections.image] > MAX_PER_CATEGORY
    many = np.flatnonzero(is_many)
    counted = many[_order(detections.select(many), MAX_PER_CATEGORY)[0]] if len(many) else many
    return np.append(np.flatnonzero(~is_many), counted)


def _order(detections: Detections, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices by image, category and falling score, and the starts of these groups.

    At most `limit` of each group are kept.
    """
    order = np.lexsort((-detections.scores, detections.category, detections.image))
    new = np.ones(len(order), bool)
    same_image = np.diff(detections.image[order]) == 0
    new[1:] = ~(same_image & (np.diff(detections.category[order]) == 0))
    start = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(start, np.diff(np.append(start, len(order))))
    kept = rank < limit
    return order[kept], np.append(np.flatnonzero(new[kept]), int(kept.sum()))


def _group(truth: Truth, detections: Detections, starts: NDArray[np.int64]) -> Iterator[_Groups]:
    """Yield groups with similar numbers of annotations together.

    They are matched at once, padded to one width.
    """
    if not len(truth.image) or not len(detections):
        return
    annotated = np.lexsort((truth.crowd, truth.category, truth.image))
    kinds, first = len(truth.categories), starts[:-1]
    keys = truth.image[annotated] * kinds + truth.index_categories(truth.category[annotated])
    wanted = detections.image[first] * kinds + truth.index_categories(detections.category[first])
    lower, upper = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
    count = upper - lower
    sizes = np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
    for size in np.unique(sizes[count > 0]):
        chosen = np.flatnonzero((sizes == size) & (count > 0))
        chosen = chosen[np.argsort(starts[chosen] - starts[chosen + 1], kind="stable")]  # most detections first
        index = lower[chosen, None] + np.arange(count[chosen].max())
        number = np.where(index < upper[chosen, None], annotated[np.minimum(index, len(annotated) - 1)], -1)
        yield _Groups(starts[chosen], starts[chosen + 1], number)


Overlaps = Callable[[_Groups], NDArray[np.float64]]


def _prepare_boxes(truth: Truth, detections: Detections) -> Overlaps:
    """Return a function of overlaps as by pycocotools' bbIou.

    With a crowd region it is the share of the detection that lies in it.
    """
    theirs = np.concatenate((truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]), axis=1)
    ours = np.concatenate((detections.boxes[:, :2], detections.boxes[:, :2] + detections.boxes[:, 2:]), axis=1)
    their_area, our_area = (boxes[:, 2] * boxes[:, 3] for boxes in (truth.boxes, detections.boxes))

    def overlaps(groups: _Groups) -> NDArray[np.float64]:
        rows, number = _rows(groups)
        sides = np.minimum(ours[rows, None, 2:], theirs[number, 2:]) - np.maximum(
            ours[rows, None, :2], theirs[number, :2]
        )
        shared = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
        area = our_area[rows, None]
        union = np.where(truth.crowd[number], area, area + their_area[number] - shared)
        share = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
        return np.where(number >= 0, share, -1.0)

    return overlaps


def _prepare_masks(truth: Truth, detections: Detections) -> Overlaps:
    """Compute overlaps by pycocotools' own code; all masks were checked before."""
    from pycocotools import mask as coco_mask

    theirs, crowds = truth.masks or [], truth.crowd.astype(np.uint8).tolist()

    def overlaps(groups: _Groups) -> NDArray[np.float64]:
        share = np.full((int((groups.stop - groups.start).sum()), groups.number.shape[1]), -1.0)
        row = 0
        for start, stop, numbers in zip(
            groups.start.tolist(), groups.stop.tolist(), groups.number.tolist(), strict=True
        ):
            present = [number for number in numbers if number >= 0]
            masks, crowd = [theirs[number] for number in present], [crowds[number] for number in present]
            share[row : row + stop - start, : len(present)] = coco_mask.iou(
                detections.masks(slice(start, stop)), masks, crowd
            )
            row += stop - start
        return share

    return overlaps


def _rows(groups: _Groups) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the detections of all groups one after another, and for each its group's annotations."""
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
    """Give each detection in turn the free annotation it overlaps most, and write it to `partner` (T,D).

    A crowd is never used up. `overlaps` has the groups' detections one after another.
    """
    number, width = groups.number, groups.number.shape[1]
    depth = groups.stop - groups.start
    first = np.cumsum(depth) - depth
    many = crowd[number] & (number >= 0)
    free = np.repeat((number >= 0)[:, None], len(limits), axis=1)  # (groups, T, width)
    for rank in range(int(depth[0])):
        count = int(np.searchsorted(-depth, -rank))  # groups with more than `rank` detections
        overlap = overlaps[first[:count] + rank, None]
        fits = free[:count] & (overlap >= limits[:, None])
        single = fits & ~many[:count, None]
        # Where no single annotation fits, a crowd can.
        fits = np.where(single.any(axis=2, keepdims=True), single, fits)
        # Of equal overlaps COCOeval uses the last.
        best = width - 1 - np.argmax(np.where(fits, overlap, -1.0)[:, :, ::-1], axis=2)
        rows, levels = np.nonzero(fits.any(axis=2))
        chosen = best[rows, levels]
        partner[levels, groups.start[rows] + rank] = number[rows, chosen]
        free[rows, levels, chosen] = many[rows, chosen]
