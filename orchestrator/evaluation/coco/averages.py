"""Averages of precision and recall: COCO's, and FashionFail's weighted ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.categories import model_id
from orchestrator.evaluation.coco.engines import AREAS, THRESHOLDS, Curves
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.coco.results import WeightedAverages
from orchestrator.predictions import Predictions

FASHIONPEDIA = "fashionpedia"
# The first 27 are apparel, the rest parts of garments; FashionFail has 22 of the 27 (arXiv 2404.08582).
FASHIONFAIL_EXCLUDES = (2, 12, 16, 19, 20)
FASHIONFAIL_CATEGORIES = tuple(number for number in range(27) if number not in FASHIONFAIL_EXCLUDES)


class Averages:
    """COCO's averages, as in `COCOeval.summarize`; None where nothing is annotated."""

    def __init__(self, curves: Curves) -> None:
        self._precision, self._recall, self._limits = curves.precision, curves.recall, curves.max_detections

    def precision(
        self, at: float | None = None, area: str = "all", category: int | Sequence[int] | None = None
    ) -> float | None:
        """Return average precision over all thresholds or at one, of all categories or of those at some indices."""
        of_area = self._precision[_levels(at), :, :, AREAS.index(area), -1]
        return _mean(of_area[:, :, _columns(category)])

    def recall(self, detections: int = 100, area: str = "all", category: int | None = None) -> float | None:
        """Return average recall with at most `detections` per image and category; None where the curves lack it."""
        if detections not in self._limits:
            return None
        return _mean(self._recall[:, _columns(category), AREAS.index(area), self._limits.index(detections)])


def _columns(category: int | Sequence[int] | None) -> slice | list[int]:
    if category is None:
        return slice(None)
    return slice(category, category + 1) if isinstance(category, int) else list(category)


def _levels(at: float | None) -> slice:
    """Return a slice, which copies nothing: of LVIS's 1203 categories the whole array is 100 MB."""
    if at is None:
        return slice(None)
    index = int(np.argmin(np.abs(THRESHOLDS - at)))
    return slice(index, index + 1)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def compute_category_weights(truth: Truth, predictions: Predictions) -> dict[int, float]:
    """Return w_c by category: the images with c, divided by the sum of that over all categories.

    Categories without annotations are absent. With Fashionpedia's taxonomy only FashionFail's 22 are counted, by the
    model's ids where `predictions` have adopted the annotations'.
    """
    is_fashionpedia = predictions.meta.get("taxonomy") == FASHIONPEDIA
    eligible = [
        n for n in truth.categories if not is_fashionpedia or model_id(predictions, n) in FASHIONFAIL_CATEGORIES
    ]
    images = {number: truth.count_images_with(number) for number in truth.categories if number in eligible}
    total = sum(images.values())
    return {number: count / total for number, count in images.items() if count}


def compute_weighted(averages: Averages, truth: Truth, weights: dict[int, float]) -> WeightedAverages:
    """Compute mAP_w = Σ w_c · AP_c, also at .50 and .75, and the same of the recall."""
    indices = {number: index for index, number in enumerate(truth.categories)}

    def total(values: dict[int, float | None]) -> float | None:
        # A category annotated only as crowds has images but no figure.
        known = {number: value for number, value in values.items() if value is not None}
        share = sum(weights[number] for number in known)
        return sum(weights[number] * value for number, value in known.items()) / share if share else None

    def precision(at: float | None) -> float | None:
        return total({number: averages.precision(at, category=indices[number]) for number in weights})

    def recall(detections: int) -> float | None:
        return total({number: averages.recall(detections, category=indices[number]) for number in weights})

    return WeightedAverages(precision(None), precision(0.5), precision(0.75), recall(1), recall(100), len(weights))
