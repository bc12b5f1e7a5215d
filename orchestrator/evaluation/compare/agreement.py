"""How far two models agree where there is no truth: instances of one that the other has too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.ground_truth import Iou
from orchestrator.evaluation.runs import Source
from orchestrator.predictions.predictions import Predictions

LEVELS = (0.5, 0.75, 0.9)


@dataclass(frozen=True)
class CategoryAgreement:
    """Instances of each model in one category, and how many of them are pairs at LEVELS."""

    id: int
    name: str
    first: int
    second: int
    pairs: tuple[int, ...]


@dataclass(frozen=True)
class Agreement:
    """Two models over all images: `pairs` of instances of one category that overlap at least as LEVELS say.

    `agreement` is 2 · pairs / (first + second): 1 when each instance has its like, None where neither has any.
    """

    first_label: str
    second_label: str
    first: int
    second: int
    pairs: tuple[int, ...]
    agreement: tuple[float | None, ...]
    per_category: tuple[CategoryAgreement, ...]
    images_apart: tuple[str, ...]


def agreements(sources: Sequence[Source], iou: Iou, min_score: float) -> list[Agreement]:
    """Every two of the runs, compared by instances of at least `min_score`. The runs must have the same images."""
    return [
        _agreement(first, second, iou, min_score)
        for place, first in enumerate(sources)
        for second in sources[place + 1 :]
    ]


def _agreement(first: Source, second: Source, iou: Iou, min_score: float) -> Agreement:
    ours, theirs = first.predictions, second.predictions
    names = {int(one["id"]): str(one["name"]) for one in ours.meta.get("categories", [])}
    counts = {number: np.zeros(2 + len(LEVELS), np.int64) for number in names}
    shares = []
    for image, file in enumerate(ours.files):
        other = theirs.index(file)
        rows, others = (_rows(one, at, min_score) for one, at in ((ours, image), (theirs, other)))
        paired = 0
        for number in np.union1d(ours.classes[rows], theirs.classes[others]).tolist():
            a, b = rows[ours.classes[rows] == number], others[theirs.classes[others] == number]
            levels = paired_levels(overlaps(ours, a, theirs, b, iou))
            counts[number] += [len(a), len(b), *levels]
            paired += levels[0]
        shares.append(2 * paired / (len(rows) + len(others)) if len(rows) + len(others) else 1.0)
    total = sum(counts.values(), np.zeros(2 + len(LEVELS), np.int64)).tolist()
    apart = np.argsort(np.array(shares), kind="stable")[:5]
    return Agreement(
        first_label=first.label,
        second_label=second.label,
        first=total[0],
        second=total[1],
        pairs=tuple(total[2:]),
        agreement=tuple(2 * pairs / (total[0] + total[1]) if total[0] + total[1] else None for pairs in total[2:]),
        per_category=tuple(
            CategoryAgreement(number, names[number], int(found[0]), int(found[1]), tuple(found[2:].tolist()))
            for number, found in counts.items()
        ),
        images_apart=tuple(ours.files[image] for image in apart.tolist() if shares[image] < 1),
    )


def _rows(predictions: Predictions, image: int, min_score: float) -> NDArray[np.int64]:
    part = predictions.rows(image)
    rows: NDArray[np.int64] = part.start + np.flatnonzero(predictions.scores[part] >= min_score)
    return rows


def overlaps(
    first: Predictions, a: NDArray[np.int64], second: Predictions, b: NDArray[np.int64], iou: Iou
) -> NDArray[np.float64]:
    """(A,B) IoU of rows `a` of one file with rows `b` of another, of one image."""
    from pycocotools import mask as coco_mask

    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    ours, theirs = (_shapes(*one, iou) for one in ((first, a), (second, b)))
    return np.asarray(coco_mask.iou(ours, theirs, [0] * len(b)), np.float64)


def _shapes(predictions: Predictions, rows: NDArray[np.int64], iou: Iou) -> object:
    if iou == "bbox":
        corners = predictions.boxes[rows].astype(np.float64)
        return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    image = int(np.searchsorted(predictions.offsets, rows[0], side="right")) - 1
    size = predictions.image_size[image].tolist()
    return [{"size": size, "counts": predictions.counts(row)} for row in rows.tolist()]


def paired_levels(iou: NDArray[np.float64]) -> list[int]:
    """How many pairs there are at each of LEVELS when the most overlapping two are paired first, each once."""
    rows, columns = np.nonzero(iou >= LEVELS[0])
    order = np.argsort(-iou[rows, columns], kind="stable")
    taken_rows, taken_columns, found = set[int](), set[int](), []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            found.append(float(iou[row, column]))
    # Pairs are made from the highest overlap down, so those above a level are the same whatever the level.
    return [sum(1 for value in found if value >= level) for level in LEVELS]
