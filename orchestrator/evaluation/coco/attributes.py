"""Fashionpedia's metric: average precision where an instance must overlap its annotation and share its attributes.

As the authors' FPEval computes it (arXiv 2004.12276): a detection matches an annotation whose IoU and whose F1 score of
attributes both reach a threshold. In categories without attributes the IoU alone decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.attribute_curves import AttributeColumns, compute_category_curves
from orchestrator.evaluation.coco.attribute_truth import AttributeTruth
from orchestrator.evaluation.coco.averages import FASHIONPEDIA
from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.engines import AREAS, MAX_DETECTIONS, THRESHOLDS
from orchestrator.evaluation.coco.ground_truth import Iou, Truth
from orchestrator.evaluation.coco.results import AttributeMetrics
from orchestrator.predictions import Predictions

DEFAULT_SCORE = 0.5  # a higher score means that the instance has the attribute, as in FashionFormer's own evaluation
EVERY = slice(0, len(THRESHOLDS))
NONE = slice(len(THRESHOLDS), None)
TRUTH_HINT = (
    "give annotations with attributes, as Fashionpedia's instances_attributes_*.json; or omit --attribute-score"
)
MODEL_HINT = "omit --attribute-score; of the models that come with orch, amrcnn-* and fformer-* predict attributes"
# Fashionpedia annotates attributes of these categories only, by its authors' own list.
FASHIONPEDIA_CATEGORIES = (*range(13), 28, 29, 31, 32, 33)


def score_attributes(
    truth: Truth, detections: Detections, iou: Iou, score: float | None
) -> tuple[AttributeMetrics | None, list[str]]:
    """Compute the metric where truth and predictions have attributes; None and perhaps a note where not.

    `score` None: DEFAULT_SCORE. With a score, attributes were asked for: UsageError or PredictionsError if they cannot
    be scored.
    """
    predictions = detections.predictions
    if truth.attributes is None or truth.attributes.fault is not None:
        why = "it has no list 'attributes', or no annotation has attribute_ids"
        if truth.attributes is not None:
            why = str(truth.attributes.fault)
        if score is not None:
            raise UsageError(f"the annotations {truth.path} have no attributes to score", why=why, hint=TRUTH_HINT)
        return None, [] if truth.attributes is None else [f"attributes are not scored: {why}"]
    what = str(predictions.path or "the predictions")
    if predictions.attributes is None:
        if score is not None:
            raise PredictionsError(f"{what} has no attributes", why="the model predicts none", hint=MODEL_HINT)
        return None, []
    columns, note = _find_columns(predictions, truth.attributes)
    if columns is None and score is not None:
        raise PredictionsError(f"the attributes of {what} cannot be scored", why=note, hint=MODEL_HINT)
    if columns is None:
        return None, [f"attributes are not scored: {note}"]
    metrics = _compute(truth, detections, iou, columns, DEFAULT_SCORE if score is None else score)
    return metrics, [note] if note else []


def _find_columns(predictions: Predictions, truth: AttributeTruth) -> tuple[NDArray[np.int64] | None, str | None]:
    """Return (A,) the column of `predictions.attributes` of each attribute of the truth, and a note.

    Columns are found by name, -1 for an attribute that the model does not predict; else, if there are as many, by
    order. None, and the reason, if neither is possible.
    """
    assert predictions.attributes is not None
    count = predictions.attributes.shape[1]
    names = predictions.meta.get("attribute_names") or []
    indices = {name: column for column, name in enumerate(names)}
    shared = indices.keys() & set(truth.names.values())
    if shared and len(shared) in (len(names), len(set(truth.names.values()))):
        return np.array([indices.get(name, -1) for name in truth.names.values()], np.int64), None
    if not shared and count == len(truth.names):
        how = "the attributes of the predictions have other names than those of the annotations: taken by ascending id"
        return np.arange(count), how
    why = f"the predictions have {count} attributes and the annotations {len(truth.names)}, {len(shared)} of one name"
    return None, why


def _compute(
    truth: Truth, detections: Detections, iou: Iou, columns: NDArray[np.int64], score: float
) -> AttributeMetrics:
    described = find_described(truth, detections.predictions.meta.get("taxonomy"))
    attributes = AttributeColumns(columns, score)
    curves = [
        compute_category_curves(truth, detections, iou, number, attributes if number in described else None)
        for number in truth.categories
    ]
    averages = _Averages(curves)
    half, three_quarters = _at(0.5), _at(0.75)
    return AttributeMetrics(
        score=score,
        ap=averages.precision(),
        ap_iou50=averages.precision(iou=half),
        ap_iou75=averages.precision(iou=three_quarters),
        ap_f1_50=averages.precision(f1=half),
        ap_f1_75=averages.precision(f1=three_quarters),
        ap_iou50_f1_50=averages.precision(half, half),
        ap_iou50_f1_75=averages.precision(half, three_quarters),
        ap_iou75_f1_50=averages.precision(three_quarters, half),
        ap_iou75_f1_75=averages.precision(three_quarters, three_quarters),
        ap_small=averages.precision(area="small"),
        ap_medium=averages.precision(area="medium"),
        ap_large=averages.precision(area="large"),
        ar1=averages.recall(1),
        ar10=averages.recall(10),
        ar100=averages.recall(100),
        ar_small=averages.recall(100, "small"),
        ar_medium=averages.recall(100, "medium"),
        ar_large=averages.recall(100, "large"),
        ap_f1=averages.precision(iou=NONE),
        per_category={
            number: averages.precision(category=index)
            for index, number in enumerate(truth.categories)
            if number in described
        },
    )


def find_described(truth: Truth, taxonomy: str | None) -> set[int]:
    """Return the categories whose attributes count: Fashionpedia's own, else all that have an attribute annotated."""
    assert truth.attributes is not None
    if taxonomy == FASHIONPEDIA:
        return set(FASHIONPEDIA_CATEGORIES) & truth.categories.keys()
    return set(np.unique(truth.category[truth.attributes.values.any(axis=1)]).tolist())


class _Averages:
    """Means over categories, as FPEval's: each F1 level of a category with attributes counts like a category."""

    def __init__(self, curves: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
        self._precision = [precision for precision, _ in curves]
        self._recall = [recall for _, recall in curves]

    def precision(
        self, iou: slice = EVERY, f1: slice = EVERY, area: str = "all", category: int | None = None
    ) -> float | None:
        chosen = self._precision if category is None else [self._precision[category]]
        return _mean(chosen, AREAS.index(area), iou, f1)

    def recall(self, limit: int, area: str = "all") -> float | None:
        number = MAX_DETECTIONS.index(limit)
        return _mean([recall[..., number] for recall in self._recall], AREAS.index(area), EVERY, EVERY)


def _at(level: float) -> slice:
    index = int(np.flatnonzero(np.isclose(THRESHOLDS, level))[0])
    return slice(index, index + 1)


def _mean(arrays: list[NDArray[np.float64]], area: int, iou: slice, f1: slice) -> float | None:
    """Return the mean over (A,T,F) arrays of what is known; those with one F1 level have it in place of `f1`."""
    parts = [array[area, iou, f1 if array.shape[2] > 1 else slice(None)].ravel() for array in arrays]
    values = np.concatenate(parts) if parts else np.zeros(0)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None
