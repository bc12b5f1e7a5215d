"""Several models on the same images: their figures side by side, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.averages import category_weights
from orchestrator.evaluation.coco.detections import Joined, check_predictions, join
from orchestrator.evaluation.coco.engines import AUTO, THRESHOLDS, Curves, curves
from orchestrator.evaluation.coco.evaluate import CountsAt, Evaluation, choose_categories, evaluate_joined
from orchestrator.evaluation.coco.ground_truth import Iou, Truth, read_truth
from orchestrator.evaluation.coco.matching import Matches, match
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.evaluation.compare.agreement import Agreement, agreements
from orchestrator.evaluation.compare.bootstrap import CONFIDENCE, Interval, intervals
from orchestrator.evaluation.compare.fairness import aligned, differences, failures_note, refuse, variant_notes
from orchestrator.evaluation.runs import Source, open_sources

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
    truth = truth_for(annotations, options, sources[0] if cut_images else None)
    judged = [judge(source, truth, options) for source in sources]
    between = compared_to_first(judged, truth, options)
    evaluations = tuple(one.evaluation for one in judged)
    return Comparison(tuple(sources), options, CONFIDENCE, evaluations, between, (), tuple(notes))


def comparable(sources: Sequence[Source], align: bool) -> tuple[list[Source], list[str], bool]:
    """The runs, cut down to what they share where `align` says so; what was done; whether images were left out.

    PredictionsError when they are not comparable.
    """
    found = differences(sources)
    refuse(sources, found, align)
    kept, notes = aligned(sources, found) if found else (list(sources), [])
    notes += [*failures_note(kept), *variant_notes(kept)]
    return kept, notes, any(one.setting == "image list" for one in found)


@dataclass(frozen=True)
class Judged:
    """One run beside the truth: its figures, COCO's curves, and the match of each detection at THRESHOLDS."""

    joined: Joined
    curves: Curves
    evaluation: Evaluation
    matches: Matches | None


def truth_for(annotations: Path, options: Options, common: Source | None) -> Truth:
    """The annotations to compare with, of the chosen categories; with `common`, of that run's images alone."""
    truth = read_truth(annotations, options.iou)
    if options.categories:
        truth = truth.restricted(choose_categories(options.categories, truth.categories))
    return truth if common is None else truth.only_images(join(common.predictions, truth).predicted)


def judge(source: Source, truth: Truth, options: Options, with_matches: bool = False) -> Judged:
    """Evaluate one run; the matches are made where resampling needs them, or when asked for."""
    joined = join(source.predictions, truth)
    found, note = curves(truth, joined.detections, options.iou, options.engine)
    evaluation = evaluate_joined(truth, joined, found, options.iou, CountsAt(), [note] if note else [])
    wanted = options.resamples or with_matches
    matches = match(truth, joined.detections, options.iou, THRESHOLDS) if wanted else None
    return Judged(joined, found, evaluation, matches)


def compared_to_first(judged: Sequence[Judged], truth: Truth, options: Options) -> tuple[dict[str, Interval], ...]:
    """The intervals of each run's differences to the first; none without resamples."""
    if len(judged) < 2 or not options.resamples or not len(truth):
        return ()
    runs = [ResampledPrecision(truth, one.matches) for one in judged if one.matches is not None]
    known = category_weights(truth, judged[0].joined.detections.predictions.meta.get("taxonomy"))
    weights = np.array([known.get(number, 0.0) for number in truth.categories])
    return tuple(intervals(runs, len(truth), weights, options.resamples, options.seed))
