"""Predictions against annotations: COCO's figures, FashionFail's weighted ones, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.attributes import score_attributes
from orchestrator.evaluation.coco.averages import Averages
from orchestrator.evaluation.coco.detections import Detections, JoinedDetections, choose_iou, join
from orchestrator.evaluation.coco.engines import AREAS, AUTO, THRESHOLDS, Curves, compute_curves
from orchestrator.evaluation.coco.federated import FREQUENCIES, MAX_PER_IMAGE, note_rules
from orchestrator.evaluation.coco.ground_truth import Iou, Truth, read_truth
from orchestrator.evaluation.coco.matching import find_counted, match
from orchestrator.evaluation.coco.protocol import COCO, CocoProtocol, read_category_names
from orchestrator.evaluation.coco.results import CategoryMetrics, DetectionCounts, Evaluation, FederatedMetrics
from orchestrator.predictions import STATUS_FAILED, Predictions
from orchestrator.system import did_you_mean


@dataclass(frozen=True)
class CountLevel:
    """Where right, wrong and missed instances are counted: from which IoU, and from which score."""

    iou: float = 0.5
    score: float = 0.0


def evaluate(
    predictions: Predictions,
    annotations: Path,
    iou: Iou | None = None,
    categories: Sequence[str | int] = (),
    counts_at: CountLevel = CountLevel(),
    engine: str = AUTO,
    attribute_score: float | None = None,
    strict: bool = False,
    protocol: CocoProtocol = COCO,
) -> Evaluation:
    """Compare predictions with a COCO annotation file, over all its categories or some (names or ids).

    `iou` None: masks if the predictions have them, else boxes. `attribute_score`: an instance has the attributes that
    score higher; None: the default, and no error where attributes cannot be scored. `protocol` has the rules of the
    figures. PredictionsError when no image is annotated, sizes disagree, the predictions are broken or lack the masks
    or attributes that were asked for; UsageError when the annotations are broken, a category is
    unknown, or `strict` and anything about the truth is doubtful.
    """
    iou = choose_iou([predictions], iou)
    truth = choose_truth(read_truth(annotations, iou, [predictions]), categories, protocol, predictions)
    joined = join_by(protocol, predictions, truth)
    if strict:
        refuse_warnings((*truth.warnings, *joined.warnings), annotations)
    curves, note = compute_curves(truth, joined.detections, iou, engine)
    notes = [note] if note else []
    return evaluate_joined(truth, joined, curves, iou, counts_at, notes, protocol, attribute_score)


def choose_truth(truth: Truth, categories: Sequence[str | int], rules: CocoProtocol, predictions: Predictions) -> Truth:
    """Return the truth of the categories that are evaluated: those given, or those of the protocol."""
    chosen = choose_categories(categories, truth.categories) if categories else []
    return rules.choose_categories(truth, chosen, read_category_names(predictions))


def join_by(rules: CocoProtocol, predictions: Predictions, truth: Truth) -> JoinedDetections:
    """Join predictions with a truth; their boxes and areas are those of the protocol."""
    joined = join(predictions, truth)
    return replace(joined, detections=rules.adapt(joined.detections))


def refuse_warnings(warnings: Sequence[str], source: Path) -> None:
    """Raise UsageError if there are warnings: what --strict asks for."""
    if warnings:
        raise UsageError(
            f"{source} is doubtful, and --strict was given",
            why="\n".join(dict.fromkeys(warnings)),
            hint="correct the annotations; without --strict these are warnings",
        )


def evaluate_joined(
    truth: Truth,
    joined: JoinedDetections,
    curves: Curves,
    iou: Iou,
    counts_at: CountLevel,
    notes: Sequence[str],
    rules: CocoProtocol,
    attribute_score: float | None = None,
) -> Evaluation:
    """Compute all figures from predictions joined by the protocol `rules`, and the engine's curves."""
    averages, predictions = Averages(curves), joined.detections.predictions
    weights = rules.weigh(truth, predictions)
    counts = _count(truth, joined.detections, curves, iou, counts_at, rules)
    precision, recall = averages.precision, averages.recall
    attributes, attribute_notes = score_attributes(truth, joined.detections, iou, attribute_score)
    failed = np.flatnonzero(predictions.status == STATUS_FAILED)
    return Evaluation(
        protocol=rules.name,
        iou=iou,
        engine=curves.engine,
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
        weighted=rules.average(averages, truth, weights),
        counts=DetectionCounts(*(sum(getattr(part, kind) for part in counts) for kind in ("tp", "fp", "fn"))),
        counts_iou=counts_at.iou,
        counts_score=counts_at.score,
        per_category=_per_category(truth, averages, counts, weights),
        images=len(truth),
        missing=len(joined.missing),
        missing_images=joined.missing,
        unknown_images=joined.unknown,
        failed_images=tuple(predictions.files[image] for image in failed.tolist()),
        detections=len(joined.detections),
        notes=(
            *notes,
            *note_rules(truth.federation, len(truth.categories), predictions, len(joined.detections)),
            *attribute_notes,
            *rules.note(predictions, truth),
            *joined.note_unpredictable(truth),
        ),
        warnings=(*truth.warnings, *joined.warnings),
        skipped_annotations=truth.skipped,
        federated=_compute_federated(truth, averages),
        attributes=attributes,
    )


def _compute_federated(truth: Truth, averages: Averages) -> FederatedMetrics | None:
    if truth.federation is None:
        return None
    frequency = truth.federation.frequency
    groups = [[n for n, number in enumerate(truth.categories) if frequency.get(number) == key] for key in FREQUENCIES]
    recalls = [averages.recall(MAX_PER_IMAGE, area) for area in AREAS]
    return FederatedMetrics(*(averages.precision(category=group) for group in groups), *recalls)


def choose_categories(wanted: Sequence[str | int], known: dict[int, str]) -> list[int]:
    """Return the ids of categories given by name or id; one text may hold several, separated by commas.

    A text that is a name as a whole, commas included, is that category. UsageError for an unknown category.
    """
    return sorted({number for given in wanted for number in _find_category(str(given).strip(), known)})


def _find_category(text: str, known: dict[int, str]) -> list[int]:
    by_name = {name.lower(): number for number, name in known.items()}
    if text.lower() in by_name:
        return [by_name[text.lower()]]
    if text.removeprefix("-").isdecimal() and int(text) in known:
        return [int(text)]
    if "," in text:
        return [number for part in text.split(",") for number in _find_category(part.strip(), known)]
    raise UsageError(f"the annotations have no category {text!r}", why=did_you_mean(text, known.values()))


def _count(
    truth: Truth, detections: Detections, curves: Curves, iou: Iou, at: CountLevel, rules: CocoProtocol
) -> list[DetectionCounts]:
    """Count per category."""
    counts = _count_by_curves(truth, detections, curves, at)
    if counts is None:
        counts = _count_by_matching(truth, detections, iou, at)
    if rules.counts_unannotated:
        return counts
    annotated = set(truth.category[~truth.crowd].tolist())
    none = DetectionCounts(0, 0, 0)
    return [one if number in annotated else none for number, one in zip(truth.categories, counts, strict=True)]


def _count_by_curves(
    truth: Truth, detections: Detections, curves: Curves, at: CountLevel
) -> list[DetectionCounts] | None:
    """Count per category from the recall at one of COCO's thresholds, without matching.

    None where that is not possible: with a least score, with crowds, which detections may match without counting, or by
    LVIS's rules.
    """
    level = np.flatnonzero(np.isclose(THRESHOLDS, at.iou))
    if at.score > 0 or truth.crowd.any() or truth.federation is not None or not len(level):
        return None
    category = detections.category[find_counted(detections)]
    counts = []
    for index, number in enumerate(truth.categories):
        annotated = int((truth.category == number).sum())
        tp = round(max(float(curves.recall[level[0], index, 0, -1]), 0.0) * annotated)
        counts.append(DetectionCounts(tp, int((category == number).sum()) - tp, annotated - tp))
    return counts


def _count_by_matching(truth: Truth, detections: Detections, iou: Iou, at: CountLevel) -> list[DetectionCounts]:
    """Count per category. Detections match in descending order of score, so weaker ones can be dropped first."""
    matches = match(truth, detections.select(detections.scores >= at.score), iou, np.array([at.iou]))
    found = (matches.category[matches.right[0]], matches.category[matches.wrong[0]], truth.category[~truth.crowd])
    counts = ((int((categories == number).sum()) for categories in found) for number in truth.categories)
    return [DetectionCounts(tp, fp, annotated - tp) for tp, fp, annotated in counts]


def _per_category(
    truth: Truth, averages: Averages, counts: list[DetectionCounts], weights: dict[int, float]
) -> tuple[CategoryMetrics, ...]:
    return tuple(
        CategoryMetrics(
            id=number,
            name=name,
            ap=averages.precision(category=index),
            ap50=averages.precision(0.5, category=index),
            ap75=averages.precision(0.75, category=index),
            ar1=averages.recall(1, category=index),
            ar10=averages.recall(10, category=index),
            ar100=averages.recall(category=index),
            annotated_images=truth.count_images_with(number),
            annotations=int((truth.category == number).sum()),
            counts=counts[index],
            weight=weights.get(number),
        )
        for index, (number, name) in enumerate(truth.categories.items())
    )
