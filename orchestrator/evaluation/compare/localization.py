"""Compare runs that localize manipulation: figures side by side, and confidence intervals of their differences."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import OrchError, PredictionsError, UsageError
from orchestrator.evaluation.compare.bootstrap import CONFIDENCE, Interval, resample_differences
from orchestrator.evaluation.compare.fairness import SHOWN_NAMES, make_masks_comparable
from orchestrator.evaluation.localization.evaluate import (
    ComparedImage,
    compare_images,
    find_truth,
    read_levels,
    summarize,
)
from orchestrator.evaluation.localization.ground_truth import TrueMask, read_masks, read_recorded_masks
from orchestrator.evaluation.localization.metrics import FIXED, Localization, compute_overlap
from orchestrator.evaluation.localization.pixels import open_pixels
from orchestrator.evaluation.localization.resampling import RESAMPLED, ResampledMeans
from orchestrator.evaluation.protocols import get_mask_protocol
from orchestrator.evaluation.runs import OpenedRun, open_runs
from orchestrator.paths import RunPaths


@dataclass(frozen=True)
class MaskOptions:
    """How runs are compared with true masks, as of `evaluate_masks`.

    `source` None: the masks recorded with the runs' images. `protocol` None: orch's own rules.
    """

    source: Path | None = None
    is_inverted: bool = False
    protocol: str | None = None
    align: bool = False
    resamples: int = 1000
    seed: int = 0
    strict: bool = False


@dataclass(frozen=True)
class MaskComparison:
    """Runs side by side: `evaluations`, one per run, and `intervals` of differences to the first, one per other run."""

    runs: tuple[OpenedRun, ...]
    options: MaskOptions
    confidence: float
    evaluations: tuple[Localization, ...]
    intervals: tuple[dict[str, Interval], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ComparedMasks:
    """What pictures and curves are made from: the true masks that count, and each run's figures of every image."""

    truth: tuple[TrueMask, ...]
    outcomes: tuple[tuple[ComparedImage, ...], ...]
    means: tuple[ResampledMeans, ...]

    def measure_errors(self) -> NDArray[np.float64]:
        """Return (R,T) each run's error in each true mask's image, from 0 to 1, at the threshold 0.5.

        It is 1 - F1, and in an image without manipulated pixels the share of pixels called manipulated.
        """
        return np.array([[_measure_error(one.measured.histogram) for one in own] for own in self.outcomes])


def has_recorded_masks(paths: Sequence[Path]) -> bool:
    """Return whether all are run directories with mask pictures, and the images of one came with true masks."""
    has_pictures = all(path.is_dir() and RunPaths(path).masks.is_dir() for path in paths)
    return has_pictures and any(read_recorded_masks(path) for path in paths)


def compare_masks(paths: Sequence[Path], options: MaskOptions) -> MaskComparison:
    """Compare the mask pictures of two or more run directories with true masks.

    UsageError when only one is given, a run has no mask pictures or no true masks are known; PredictionsError when the
    runs are not comparable (see docs/evaluation.md) and `options.align` is off or does not help.
    """
    if len(paths) < 2:
        raise UsageError("cannot compare one run", why="at least two are needed", hint="orch compare RUN RUN …")
    return compare_opened_masks(open_runs(paths), options)[0]


def compare_opened_masks(opened: Sequence[OpenedRun], options: MaskOptions) -> tuple[MaskComparison, ComparedMasks]:
    """Compare one or more opened runs; also return what pictures are made from."""
    rules = get_mask_protocol(options.protocol)
    runs, notes, has_fewer_images = make_masks_comparable(opened, options.align)
    pixels = [open_pixels(run.path, run.predictions, rules, read_levels) for run in runs]
    truth = _read_one_truth(runs, options)
    positions = [find_truth(truth, run.predictions, options.source) for run in runs]
    if has_fewer_images:
        kept = [number for number, index in enumerate(positions[0].tolist()) if index >= 0]
        truth, positions = [truth[number] for number in kept], [one[kept] for one in positions]
    outcomes = _share_faults(
        [
            compare_images(run.predictions, read, truth, index, options.is_inverted)
            for run, read, index in zip(runs, pixels, positions, strict=True)
        ]
    )
    strict_about = (options.source or runs[0].path) if options.strict else None
    summaries = [
        summarize(run.predictions, read, rules, truth, own, options.is_inverted, strict_about)
        for run, read, own in zip(runs, pixels, outcomes, strict=True)
    ]
    means = [one[1] for one in summaries]
    intervals = resample_differences(means, RESAMPLED, len(means[0]), options.resamples, options.seed)
    comparison = MaskComparison(
        tuple(runs),
        options,
        CONFIDENCE,
        tuple(one[0] for one in summaries),
        tuple(intervals) if options.resamples else (),
        tuple(notes),
    )
    compared = tuple(tuple(one for one in own if isinstance(one, ComparedImage)) for own in outcomes)
    return comparison, ComparedMasks(tuple(one.truth for one in compared[0]), compared, tuple(means))


def _measure_error(histogram: NDArray[np.int64]) -> float:
    if histogram[1].any():
        return 1 - float(compute_overlap([histogram])[0][0, FIXED])
    return float(histogram[0, FIXED:].sum() / max(int(histogram[0].sum()), 1))


def _share_faults(outcomes: Sequence[list[ComparedImage | OrchError]]) -> list[list[ComparedImage | OrchError]]:
    """Return the outcomes; a true mask that one run cannot use counts for no run."""
    faults: dict[int, OrchError] = {}
    for own in outcomes:
        for number, outcome in enumerate(own):
            if isinstance(outcome, OrchError):
                faults.setdefault(number, outcome)
    return [[faults.get(number, outcome) for number, outcome in enumerate(own)] for own in outcomes]


def _read_one_truth(runs: Sequence[OpenedRun], options: MaskOptions) -> list[TrueMask]:
    """Return the true masks of all runs. PredictionsError when those recorded with their images differ."""
    command = f"orch compare {' '.join(str(run.path) for run in runs)} --masks FOLDER"
    if options.source is not None:
        return read_masks(options.source, runs[0].predictions.files)
    recorded = [(run, _read_recorded(run)) for run in runs]
    known = [(run, masks) for run, masks in recorded if masks]
    if not known:
        raise UsageError("no true masks came with the images of these runs", hint=command)
    first, truth = known[0]
    for run, masks in known[1:]:
        differing = _list_differing(truth, masks)
        if differing:
            names = ", ".join(differing[:SHOWN_NAMES]) + (", …" if len(differing) > SHOWN_NAMES else "")
            raise PredictionsError(
                "these runs are not comparable: they differ in true masks",
                why=f"{first.label} and {run.label} recorded other true masks of {len(differing)} images ({names})",
                hint=f"give one truth for all: {command}",
            )
    return truth


def _read_recorded(run: OpenedRun) -> list[TrueMask]:
    """Return the true masks that came with the run's images, of those images that are compared."""
    files = set(run.predictions.files)
    return [mask for mask in read_recorded_masks(run.path) if mask.image in files]


def _list_differing(first: Sequence[TrueMask], second: Sequence[TrueMask]) -> list[str]:
    """Return the images whose true masks differ in content, or that have one on one side only."""
    ours, theirs = ({mask.image: mask.mask for mask in masks} for masks in (first, second))
    return [
        image
        for image in dict.fromkeys((*ours, *theirs))
        if image not in ours or image not in theirs or not _is_equal(ours[image], theirs[image])
    ]


def _is_equal(first: Path | None, second: Path | None) -> bool:
    if first == second or first is None or second is None:
        return first == second
    return _digest(first) == _digest(second)


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return str(path).encode()  # unreadable files are equal under one path only
