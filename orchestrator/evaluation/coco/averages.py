"""Averages of precision and recall: COCO's, and FashionFail's weighted ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.engines import AREAS, MAX_DETECTIONS, THRESHOLDS, Curves
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.coco.results import Weighted

FASHIONPEDIA = "fashionpedia"
# The first 27 are apparel, the rest parts of garments; FashionFail has 22 of the 27 (arXiv 2404.08582).
FASHIONFAIL_EXCLUDES = (2, 12, 16, 19, 20)
FASHIONFAIL_CATEGORIES = tuple(number for number in range(27) if number not in FASHIONFAIL_EXCLUDES)


class Averages:
    """COCO's averages over thresholds and categories, as `COCOeval.summarize` takes them; None: nothing annotated."""

    def __init__(self, curves: Curves) -> None:
        self._precision, self._recall = curves.precision, curves.recall

    def precision(self, at: float | None = None, area: str = "all", category: int | None = None) -> float | None:
        """Over all thresholds or at one, in a range of areas, of all categories or the one at a place."""
        chosen = self._precision[_levels(at), :, _one(category), AREAS.index(area), -1]
        return _mean(chosen)

    def recall(self, detections: int = 100, area: str = "all", category: int | None = None) -> float | None:
        """At one number of detections per category and image."""
        return _mean(self._recall[:, _one(category), AREAS.index(area), MAX_DETECTIONS.index(detections)])


def _one(category: int | None) -> slice:
    return slice(None) if category is None else slice(category, category + 1)


def _levels(at: float | None) -> NDArray[np.bool_]:
    return np.ones(len(THRESHOLDS), bool) if at is None else np.isclose(THRESHOLDS, at)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def category_weights(truth: Truth, taxonomy: str | None) -> dict[int, float]:
    """w_c: the number of images with category c, over the sum of that. Categories without annotations have none.

    With the taxonomy of Fashionpedia the categories are FashionFail's 22, as published.
    """
    eligible = FASHIONFAIL_CATEGORIES if taxonomy == FASHIONPEDIA else tuple(truth.categories)
    images = {number: truth.images_with(number) for number in truth.categories if number in eligible}
    total = sum(images.values())
    return {number: count / total for number, count in images.items() if count}


def weighted(averages: Averages, truth: Truth, weights: dict[int, float]) -> Weighted:
    """mAP_w = Σ w_c · AP_c, and likewise at .50 and .75, and of the recall at 1 and 100 detections."""
    places = {number: place for place, number in enumerate(truth.categories)}

    def total(values: dict[int, float | None]) -> float | None:
        # Annotations of crowds alone give a category images but no figure.
        known = {number: value for number, value in values.items() if value is not None}
        share = sum(weights[number] for number in known)
        return sum(weights[number] * value for number, value in known.items()) / share if share else None

    def precision(at: float | None) -> float | None:
        return total({number: averages.precision(at, category=places[number]) for number in weights})

    def recall(detections: int) -> float | None:
        return total({number: averages.recall(detections, category=places[number]) for number in weights})

    return Weighted(precision(None), precision(0.5), precision(0.75), recall(1), recall(100), len(weights))
