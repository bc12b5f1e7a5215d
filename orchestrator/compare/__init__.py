"""Several models on the same images: their figures side by side, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.compare.agreement import Agreement, agreements
from orchestrator.compare.bootstrap import CONFIDENCE, Interval, intervals
from orchestrator.compare.fairness import aligned, differences, failures_note, refuse
from orchestrator.errors import UsageError
from orchestrator.evaluate import CountsAt, Evaluation, choose_categories, evaluate_joined
from orchestrator.evaluate.averages import category_weights
from orchestrator.evaluate.detections import check_predictions, join
from orchestrator.evaluate.engines import AUTO, THRESHOLDS, curves
from orchestrator.evaluate.matching import match
from orchestrator.evaluate.resampling import ResampledPrecision
from orchestrator.evaluate.truth import Iou, Truth, read_truth
from orchestrator.runs import Source, open_sources

__all__ = ["Agreement", "Comparison", "Interval", "Options", "comparable", "compare"]


@dataclass(frozen=True)
class Options:
    """How runs are compared; `min_score` matters only where models are compared with each other."""

    iou: Iou = "segm"
    categories: Sequence[str | int] = ()
    align: bool = False
    resamples: int = 1000
    seed: int = 0
    min_score: float = 0.5
    engine: str = AUTO


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. With annotations `evaluations` (one a run) and `intervals` of differences to the first run
    (one for each run but the first); without, `agreements` of every two."""

    sources: tuple[Source, ...]
    options: Options
    confidence: float
    evaluations: tuple[Evaluation, ...]
    intervals: tuple[dict[str, Interval], ...]
    agreements: tuple[Agreement, ...]
    notes: tuple[str, ...]


def compare(paths: Sequence[Path], annotations: Path | None, options: Options) -> Comparison:
    """Compare two or more runs, given as run directories or predictions files.

    UsageError when they are fewer, or `options` are wrong; PredictionsError when they are not comparable (see
    docs/evaluation.md) and `options.align` is off or does not help.
    """
    if len(paths) < 2:
        raise UsageError("there is nothing to compare", why="one run was given", hint="orch compare RUN RUN …")
    sources, notes, cut_images = comparable(open_sources(paths), options.align)
    if annotations is None:
        for source in sources:
            check_predictions(source.predictions)
        found = agreements(sources, options.iou, options.min_score)
        return Comparison(tuple(sources), options, CONFIDENCE, (), (), tuple(found), tuple(notes))
    truth = read_truth(annotations, options.iou)
    if options.categories:
        truth = truth.restricted(choose_categories(options.categories, truth.categories))
    evaluations, between = _against_truth(sources, truth, options, cut_images)
    return Comparison(tuple(sources), options, CONFIDENCE, tuple(evaluations), tuple(between), (), tuple(notes))


def comparable(sources: Sequence[Source], align: bool) -> tuple[list[Source], list[str], bool]:
    """The runs, cut down to what they share where `align` says so; what was done; whether images were left out.

    PredictionsError when they are not comparable.
    """
    found = differences(sources)
    refuse(sources, found, align)
    kept, notes = aligned(sources, found) if found else (list(sources), [])
    notes += failures_note(kept)
    return kept, notes, any(one.setting == "image list" for one in found)


def _against_truth(
    sources: Sequence[Source], truth: Truth, options: Options, only_common: bool
) -> tuple[list[Evaluation], list[dict[str, Interval]]]:
    """Evaluations and intervals. With `only_common`, annotated images that not all runs have do not count."""
    if only_common:
        truth = truth.only_images(join(sources[0].predictions, truth).predicted)
    evaluations, resampled = [], []
    for source in sources:
        joined = join(source.predictions, truth)
        found, note = curves(truth, joined.detections, options.iou, options.engine)
        notes = [note] if note else []
        evaluations.append(evaluate_joined(truth, joined, found, options.iou, CountsAt(), notes))
        if options.resamples:
            resampled.append(ResampledPrecision(truth, match(truth, joined.detections, options.iou, THRESHOLDS)))
    if not options.resamples or not len(truth):
        return evaluations, []
    weights = _weights(truth, sources[0])
    return evaluations, intervals(resampled, len(truth), weights, options.resamples, options.seed)


def _weights(truth: Truth, source: Source) -> NDArray[np.float64]:
    known = category_weights(truth, source.predictions.meta.get("taxonomy"))
    return np.array([known.get(number, 0.0) for number in truth.categories])
