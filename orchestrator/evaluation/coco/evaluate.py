"""Predictions against annotations: COCO's figures, FashionFail's weighted ones, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.averages import Averages, category_weights, weighted
from orchestrator.evaluation.coco.detections import Detections, Joined, join
from orchestrator.evaluation.coco.engines import AUTO, THRESHOLDS, Curves, curves
from orchestrator.evaluation.coco.ground_truth import Iou, Truth, read_truth
from orchestrator.evaluation.coco.matching import counted, match
from orchestrator.evaluation.coco.results import CategoryMetrics, Counts, Evaluation, Weighted
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_FAILED
from orchestrator.system.suggestions import did_you_mean

__all__ = [
    "CategoryMetrics",
    "Counts",
    "CountsAt",
    "Evaluation",
    "Weighted",
    "choose_categories",
    "evaluate",
    "evaluate_joined",
]

NAMED = 5  # differing categories named in a note


@dataclass(frozen=True)
class CountsAt:
    """Where right, wrong and missed instances are counted: an IoU, and the least score of what counts."""

    iou: float = 0.5
    score: float = 0.0


def evaluate(
    predictions: Predictions,
    annotations: Path,
    iou: Iou = "segm",
    categories: Sequence[str | int] = (),
    counts_at: CountsAt = CountsAt(),
    engine: str = AUTO,
) -> Evaluation:
    """Compare predictions with a COCO annotation file, over all its categories or some (names or ids).

    PredictionsError when no image is annotated, sizes disagree, or the predictions are broken; UsageError when the
    annotations are, or a category is unknown.
    """
    truth = read_truth(annotations, iou)
    if categories:
        truth = truth.restricted(choose_categories(categories, truth.categories))
    joined = join(predictions, truth)
    found, note = curves(truth, joined.detections, iou, engine)
    return evaluate_joined(truth, joined, found, iou, counts_at, [note] if note else [])


def evaluate_joined(
    truth: Truth, joined: Joined, found: Curves, iou: Iou, counts_at: CountsAt, notes: Sequence[str] = ()
) -> Evaluation:
    """The figures, from predictions laid beside the truth and the engine's curves."""
    averages, predictions = Averages(found), joined.detections.predictions
    weights = category_weights(truth, predictions.meta.get("taxonomy"))
    counts = _counts_of_curves(truth, joined.detections, found, counts_at)
    if counts is None:
        counts = _counts(truth, joined.detections, iou, counts_at)
    precision, recall = averages.precision, averages.recall
    failed = np.flatnonzero(predictions.status == STATUS_FAILED)
    return Evaluation(
        iou=iou,
        engine=found.engine,
        ap=precision(),
        ap50=precision(0.5),
        ap75=precision(0.75),
        ap_small=precision(area="small"),
        ap_medium=precision(area="medium"),
        ap_large=precision(area="large"),
        ar1=recall(1),
        ar10=recall(10),
        ar100=recall(),
        ar_small=recall(area="small"),
        ar_medium=recall(area="medium"),
        ar_large=recall(area="large"),
        weighted=weighted(averages, truth, weights),
        counts=Counts(*(sum(getattr(one, kind) for one in counts) for kind in ("tp", "fp", "fn"))),
        counts_iou=counts_at.iou,
        counts_score=counts_at.score,
        per_category=_per_category(truth, averages, counts, weights),
        images=len(truth),
        missing=len(joined.missing),
        missing_images=joined.missing,
        unknown_images=joined.unknown,
        failed_images=tuple(predictions.files[image] for image in failed.tolist()),
        detections=len(joined.detections),
        notes=(*notes, *_category_notes(predictions, truth)),
    )


def choose_categories(wanted: Sequence[str | int], known: dict[int, str]) -> list[int]:
    """The ids of categories given by name or id, also several in one text, with commas between.

    Names that hold commas themselves are tried first. UsageError, with the nearest names, for one that is unknown.
    """
    chosen = [number for one in wanted for number in _category(one, known)]
    return sorted(set(chosen))


def _category(one: str | int, known: dict[int, str]) -> list[int]:
    text = str(one).strip()
    by_name = {name.lower(): number for number, name in known.items()}
    if text.lower() in by_name:
        return [by_name[text.lower()]]
    if text.lstrip("-").isdigit() and int(text) in known:
        return [int(text)]
    if "," in text:
        return [number for part in text.split(",") for number in _category(part, known)]
    raise UsageError(f"the annotations have no category {text!r}", why=did_you_mean(text, known.values()))


def _counts_of_curves(truth: Truth, found: Detections, curves: Curves, at: CountsAt) -> list[Counts] | None:
    """Per category, from the recall at one of COCO's own thresholds: no matching needed. None where that does not do:
    with a score to reach, or crowds, which may take detections out of the count."""
    level = np.flatnonzero(np.isclose(THRESHOLDS, at.iou))
    if at.score > 0 or truth.crowd.any() or not len(level):
        return None
    counting = found.category[counted(found)]
    counts = []
    for place, number in enumerate(truth.categories):
        there = int((truth.category == number).sum())
        tp = round(max(float(curves.recall[level[0], place, 0, -1]), 0.0) * there)
        counts.append(Counts(tp, int((counting == number).sum()) - tp, there - tp))
    return counts


def _counts(truth: Truth, found: Detections, iou: Iou, at: CountsAt) -> list[Counts]:
    """Per category. Matching goes by falling score, so weaker detections can be left out before it."""
    matches = match(truth, found.selected(found.scores >= at.score), iou, np.array([at.iou]))
    numbers = np.array(list(truth.categories), np.int64)

    def per_category(categories: NDArray[np.int64]) -> list[int]:
        return [int((categories == number).sum()) for number in numbers]

    tp = per_category(matches.category[matches.right[0]])
    fp = per_category(matches.category[matches.wrong[0]])
    wanted = per_category(truth.category[~truth.crowd])
    return [Counts(right, wrong, there - right) for right, wrong, there in zip(tp, fp, wanted, strict=True)]


def _per_category(
    truth: Truth, averages: Averages, counts: list[Counts], weights: dict[int, float]
) -> tuple[CategoryMetrics, ...]:
    return tuple(
        CategoryMetrics(
            id=number,
            name=name,
            ap=averages.precision(category=place),
            ap50=averages.precision(0.5, category=place),
            ap75=averages.precision(0.75, category=place),
            ar1=averages.recall(1, category=place),
            ar10=averages.recall(10, category=place),
            ar100=averages.recall(category=place),
            annotated_images=truth.images_with(number),
            annotations=int((truth.category == number).sum()),
            counts=counts[place],
            weight=weights.get(number),
        )
        for place, (number, name) in enumerate(truth.categories.items())
    )


def _category_notes(predictions: Predictions, truth: Truth) -> list[str]:
    """Ids that mean something else in the predictions: the figures would be of the wrong things."""
    ours = {int(one["id"]): str(one["name"]) for one in predictions.meta.get("categories", [])}
    differing = [
        f"{number} is {ours[number]!r} in the predictions and {name!r} in the annotations"
        for number, name in truth.categories.items()
        if number in ours and ours[number].casefold() != name.casefold()
    ]
    if not differing:
        return []
    more = f" and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
    return [f"categories have other names: {'; '.join(differing[:NAMED])}{more}"]
