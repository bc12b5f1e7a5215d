"""FashionFail's evaluation (arXiv 2404.08582): the figures of its project's evaluate.py.

Its conversion of predictions rounds boxes to a tenth of a pixel, and gives masks the areas of these boxes. It evaluates
Fashionpedia's first 27 categories and averages over 22 of them, where a category without annotations counts as -1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.averages import (
    FASHIONFAIL_CATEGORIES,
    FASHIONPEDIA,
    Averages,
)
from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.coco.protocol import CocoProtocol
from orchestrator.evaluation.coco.results import WeightedAverages
from orchestrator.predictions import Predictions, to_native_edges

CATEGORIES = tuple(range(27))
NO_FIGURE = -1.0
"""COCO's value of a category without annotations; evaluate.py does not leave it out of its own averages."""


def round_boxes(corners: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (N,4) boxes x1, y1, x2, y2 as x, y, width, height, rounded to 0.1 pixel.

    Sides are differences of float32, as torchvision computes them. Ten times a float32 is exact as a float64, so this
    rounds as Python's round() does.
    """
    sides = corners[:, 2:] - corners[:, :2]
    rounded: NDArray[np.float64] = np.concatenate((corners[:, :2], sides), axis=1).astype(np.float64).round(1)
    return rounded


def _adapt(detections: Detections) -> Detections:
    predictions = detections.predictions
    corners = to_native_edges(predictions.boxes[detections.row], predictions.meta.get("native"))
    return replace(detections, boxes=round_boxes(corners), has_box_areas=True)


def _weigh(truth: Truth, predictions: Predictions) -> dict[int, float]:
    images = {number: truth.count_images_with(number) for number in FASHIONFAIL_CATEGORIES}
    total = sum(images.values())
    return {number: count / total for number, count in images.items() if count}


def _average(averages: Averages, truth: Truth, weights: dict[int, float]) -> WeightedAverages:
    indices = {number: index for index, number in enumerate(truth.categories)}

    def known(value: float | None) -> float:
        return NO_FIGURE if value is None else value

    def precision(at: float | None) -> dict[int, float]:
        return {n: known(averages.precision(at, category=indices[n])) for n in FASHIONFAIL_CATEGORIES}

    def recall(detections: int) -> dict[int, float]:
        return {n: known(averages.recall(detections, category=indices[n])) for n in FASHIONFAIL_CATEGORIES}

    def weighted(values: dict[int, float]) -> float | None:
        return sum(share * values[number] for number, share in weights.items()) if weights else None

    def plain(values: dict[int, float]) -> float:
        return sum(values.values()) / len(values)

    all_levels, first, best = precision(None), recall(1), recall(100)
    return WeightedAverages(
        map_w=weighted(all_levels),
        map_w50=weighted(precision(0.5)),
        map_w75=weighted(precision(0.75)),
        mar_w1=weighted(first),
        mar_w100=weighted(best),
        categories=len(FASHIONFAIL_CATEGORIES),
        map=plain(all_levels),
        mar1=plain(first),
        mar100=plain(best),
    )


def _note(predictions: Predictions, truth: Truth) -> list[str]:
    annotated = set(truth.category[~truth.crowd].tolist())
    absent = [truth.categories[number] for number in FASHIONFAIL_CATEGORIES if number not in annotated]
    notes = []
    if absent:
        notes.append(
            f"{len(absent)} of FashionFail's {len(FASHIONFAIL_CATEGORIES)} categories have no annotations and count as "
            f"-1 in mAP, mAR1 and mAR100, as in evaluate.py: {', '.join(absent)}"
        )
    taxonomy = predictions.meta.get("taxonomy")
    if taxonomy != FASHIONPEDIA:
        notes.append(
            f"the predictions' taxonomy is {taxonomy!r}; FashionFail's ids 0 to 26 are those of {FASHIONPEDIA}"
        )
    return notes


FASHIONFAIL = CocoProtocol(
    "fashionfail",
    categories=CATEGORIES,
    adapt=_adapt,
    counts_unannotated=False,
    weigh=_weigh,
    average=_average,
    note=_note,
)
