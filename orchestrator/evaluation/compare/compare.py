"""Compare models on the same images: figures, and confidence intervals of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.errors import UsageError
from orchestrator.evaluation.agreement import OverlapAgreement, compare_by_overlap
from orchestrator.evaluation.coco.categories import find_unpredictable
from orchestrator.evaluation.coco.detections import SHOWN, JoinedDetections, check_predictions, choose_iou, join
from orchestrator.evaluation.coco.engines import AUTO, THRESHOLDS, Curves, compute_curves
from orchestrator.evaluation.coco.evaluate import CountLevel, choose_truth, evaluate_joined, join_by, refuse_warnings
from orchestrator.evaluation.coco.ground_truth import Iou, Truth, read_truth
from orchestrator.evaluation.coco.matching import Matches, match
from orchestrator.evaluation.coco.protocol import CocoProtocol
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.evaluation.coco.results import Evaluation
from orchestrator.evaluation.compare.bootstrap import CONFIDENCE, Interval, compute_intervals
from orchestrator.evaluation.compare.fairness import (
    IMAGE_CONTENT,
    IMAGE_LIST,
    align,
    find_differences,
    note_builds,
    note_failures,
    note_hardware,
    note_unknown_content,
    note_variants,
    refuse_differences,
)
from orchestrator.evaluation.protocols import DEFAULT, get_coco_protocol
from orchestrator.evaluation.runs import OpenedRun, open_runs


@dataclass(frozen=True)
class CompareOptions:
    """How runs are compared; `min_score` matters only where models are compared with each other.

    `iou` None: by masks if all runs have them, else by boxes. `attribute_score` is as of `evaluate`. `strict`: warnings
    about the truth are errors.
    """

    iou: Iou | None = None
    categories: Sequence[str | int] = ()
    align: bool = False
    resamples: int = 1000
    seed: int = 0
    min_score: float = 0.5
    engine: str = AUTO
    attribute_score: float | None = None
    strict: bool = False
    protocol: str = DEFAULT


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    With annotations: `evaluations`, one per run, and `intervals` of differences to the first run, one per other run.
    Without: `agreements` of every two runs.
    """

    runs: tuple[OpenedRun, ...]
    options: CompareOptions
    confidence: float
    evaluations: tuple[Evaluation, ...]
    intervals: tuple[dict[str, Interval], ...]
    agreements: tuple[OverlapAgreement, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class JudgedRun:
    """One run compared with the truth: figures, COCO's curves, and matches at THRESHOLDS."""

    joined: JoinedDetections
    curves: Curves
    evaluation: Evaluation
    matches: Matches | None


@dataclass(frozen=True)
class MatchedRun:
    """One run's detections and their matches with the truth at IoU 0.5, without figures."""

    joined: JoinedDetections
    matches: Matches


def compare_runs(paths: Sequence[Path], annotations: Path | None, options: CompareOptions) -> Comparison:
    """Compare two or more runs, given as run directories or predictions files.

    UsageError when only one is given or `options` are wrong; PredictionsError when the runs are not comparable (see
    docs/evaluation.md) and `options.align` is off or does not help.
    """
    if len(paths) < 2:
        raise UsageError("cannot compare one run", why="at least two are needed", hint="orch compare RUN RUN …")
    runs, notes, has_fewer_images = make_comparable(open_runs(paths), options.align)
    comparison, _, _ = compare_opened(runs, notes, annotations, options, has_fewer_images)
    return comparison


def make_comparable(runs: Sequence[OpenedRun], with_align: bool) -> tuple[list[OpenedRun], list[str], bool]:
    """Return the runs, `with_align` cut to what they share; notes; and whether images were dropped.

    PredictionsError when they are not comparable.
    """
    differences = find_differences(runs)
    refuse_differences(runs, differences, with_align)
    kept, notes = align(runs, differences) if differences else (list(runs), [])
    for note in (note_failures, note_unknown_content, note_hardware, note_variants, note_builds):
        notes += note(kept)
    return kept, notes, any(difference.setting in (IMAGE_LIST, IMAGE_CONTENT) for difference in differences)


def compare_opened(
    runs: Sequence[OpenedRun],
    notes: Sequence[str],
    annotations: Path | None,
    options: CompareOptions,
    has_fewer_images: bool,
    with_matches: bool = False,
) -> tuple[Comparison, Truth | None, list[JudgedRun]]:
    """Compare comparable runs; also return the truth and each run's curves and matches, for drawing.

    With `has_fewer_images` the truth is that of the runs' images only. PredictionsError when masks are asked for and a
    run has none.
    """
    iou = choose_iou([run.predictions for run in runs], options.iou)
    notes = [*notes, *_note_boxes(runs, options.iou)]
    options = replace(options, iou=iou)
    if annotations is None:
        for run in runs:
            check_predictions(run.predictions, with_masks=iou == "segm")
        agreements = compare_by_overlap(runs, iou, options.min_score)
        return Comparison(tuple(runs), options, CONFIDENCE, (), (), tuple(agreements), tuple(notes)), None, []
    rules = get_coco_protocol(options.protocol)
    truth = _read_truth(annotations, iou, options, rules, runs, has_fewer_images)
    if options.align:
        truth, left_out = _keep_predictable(truth, runs)
        notes = [*notes, *left_out]
    judged = [_judge(run, truth, iou, options, rules, with_matches) for run in runs]
    runs = [replace(run, predictions=one.joined.detections.predictions) for run, one in zip(runs, judged, strict=True)]
    intervals = _compare_to_first(judged, truth, options, rules)
    evaluations = tuple(run.evaluation for run in judged)
    return Comparison(tuple(runs), options, CONFIDENCE, evaluations, intervals, (), tuple(notes)), truth, judged


def _note_boxes(runs: Sequence[OpenedRun], asked: Iou | None) -> list[str]:
    """Return a note where boxes are compared by default although some runs have masks."""
    boxes_only = [run.label for run in runs if run.predictions.is_boxes_only]
    if asked is not None or len(boxes_only) in (0, len(runs)):
        return []
    return [f"compared by boxes: no masks are in {', '.join(boxes_only)}"]


def match_opened(
    runs: Sequence[OpenedRun], annotations: Path, iou: Iou, has_fewer_images: bool
) -> tuple[list[OpenedRun], Truth, list[MatchedRun]]:
    """Match comparable runs with annotations, for drawing; return the runs with the truth's category ids."""
    options = CompareOptions()
    rules = get_coco_protocol(options.protocol)
    truth = _read_truth(annotations, iou, options, rules, runs, has_fewer_images)
    joined = [join_by(rules, run.predictions, truth) for run in runs]
    matched = [MatchedRun(one, match(truth, one.detections, iou, THRESHOLDS[:1])) for one in joined]
    runs = [replace(run, predictions=one.detections.predictions) for run, one in zip(runs, joined, strict=True)]
    return runs, truth, matched


def _read_truth(
    annotations: Path,
    iou: Iou,
    options: CompareOptions,
    rules: CocoProtocol,
    runs: Sequence[OpenedRun],
    has_fewer_images: bool,
) -> Truth:
    """Read the annotations of the chosen categories; with `has_fewer_images`, of the runs' images only."""
    truth = read_truth(annotations, iou, [run.predictions for run in runs])
    truth = choose_truth(truth, options.categories, rules, runs[0].predictions)
    return truth.keep_images(join(runs[0].predictions, truth).predicted) if has_fewer_images else truth


def _keep_predictable(truth: Truth, runs: Sequence[OpenedRun]) -> tuple[Truth, list[str]]:
    """Return the truth without annotated categories that some model cannot predict, and a note on these."""
    annotated = set(np.unique(truth.category).tolist())
    left_out = {
        number: name
        for run in runs
        for number, name in find_unpredictable(run.predictions, truth.categories, truth.unchosen_categories).items()
        if number in annotated
    }
    if not left_out or len(left_out) == len(truth.categories):
        return truth, []
    names = list(left_out.values())
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    note = f"aligned: without the annotated categories that not all models can predict: {shown}"
    return truth.keep_categories(number for number in truth.categories if number not in left_out), [note]


def _judge(
    run: OpenedRun, truth: Truth, iou: Iou, options: CompareOptions, rules: CocoProtocol, with_matches: bool
) -> JudgedRun:
    """Evaluate one run; match its detections if resampling or the caller needs that."""
    joined = join_by(rules, run.predictions, truth)
    if options.strict:
        refuse_warnings((*truth.warnings, *joined.warnings), truth.path)
    curves, note = compute_curves(truth, joined.detections, iou, options.engine)
    notes = [note] if note else []
    evaluation = evaluate_joined(truth, joined, curves, iou, CountLevel(), notes, rules, options.attribute_score)
    is_matched = options.resamples or with_matches
    matches = match(truth, joined.detections, iou, THRESHOLDS) if is_matched else None
    return JudgedRun(joined, curves, evaluation, matches)


def _compare_to_first(
    judged: Sequence[JudgedRun], truth: Truth, options: CompareOptions, rules: CocoProtocol
) -> tuple[dict[str, Interval], ...]:
    """Return the intervals of each run's differences to the first; none without resamples."""
    if len(judged) < 2 or not options.resamples or not len(truth):
        return ()
    runs = [ResampledPrecision(truth, run.matches) for run in judged if run.matches is not None]
    known = rules.weigh(truth, judged[0].joined.detections.predictions)
    weights = np.array([known.get(number, 0.0) for number in truth.categories])
    return tuple(compute_intervals(runs, len(truth), weights, options.resamples, options.seed))
