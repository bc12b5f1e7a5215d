"""A comparison with true masks as tables, sentences and one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.evaluation import METHOD, Interval, Localization, MaskComparison, list_mask_figures
from orchestrator.reports.tables import (
    Cell,
    Table,
    collect_warnings,
    find_best,
    format_difference,
    format_figure,
    identify_runs,
)

THRESHOLDS = ("best threshold of pixels", "best threshold of images")
"""Values of which none is better than another."""
OF_DATA_SETS = ("pixel F1 at 0.5", "pixel AUC", "image AUC")


def make_mask_tables(comparison: MaskComparison, wide: bool = False) -> list[Table]:
    """Return the table of runs, the differences to the first run, and figures of each data set of a list with names.

    With `wide` the differences are more columns of the first table.
    """
    names = list(dict.fromkeys(name for intervals in comparison.intervals for name in intervals))
    columns = tuple(f"Δ {name}" for name in names)
    rows = [
        (Cell(run.label, run.label), Cell(run.variant, run.variant), *cells)
        for run, cells in zip(comparison.runs, _list_figures(comparison.evaluations), strict=True)
    ]
    shown = ("images", "manipulated", *list_mask_figures(comparison.evaluations[0]))
    if wide:
        intervals: tuple[dict[str, Interval] | None, ...] = (None, *comparison.intervals)
        rows = [
            (*row, *(format_difference(own, name) for name in names))
            for row, own in zip(rows, intervals if names else (None,) * len(rows), strict=True)
        ]
    tables = [Table("runs", ("model", "variant", *shown, *(columns if wide else ())), tuple(rows), words=2)]
    if names and not wide:
        differences = tuple(
            (Cell(run.label, run.label), *(format_difference(own, name) for name in names))
            for run, own in zip(comparison.runs[1:], comparison.intervals, strict=True)
        )
        tables.append(Table("differences", (f"to {comparison.runs[0].label}", *columns), differences))
    return tables + _list_data_sets(comparison)


def _list_figures(evaluations: Sequence[Localization]) -> list[list[Cell]]:
    """Return for each evaluation its counts and figures, the best of each figure marked."""
    known = [list_mask_figures(evaluation) for evaluation in evaluations]
    best = {name: None if name in THRESHOLDS else find_best([one[name] for one in known]) for name in known[0]}
    return [
        [
            *(Cell(str(count), count) for count in (evaluation.images, evaluation.manipulated)),
            *(format_figure(value, best[name]) for name, value in figures.items()),
        ]
        for evaluation, figures in zip(evaluations, known, strict=True)
    ]


def _list_data_sets(comparison: MaskComparison) -> list[Table]:
    """Return a table of OF_DATA_SETS by data set and run, if the true masks are a list of data sets with names."""
    labels = [run.label for run in comparison.runs]
    rows = []
    for index, part in enumerate(comparison.evaluations[0].data_sets):
        known = [list_mask_figures(evaluation.data_sets[index]) for evaluation in comparison.evaluations]
        for name in OF_DATA_SETS:
            values = [figures[name] for figures in known]
            words = (Cell(text, text) for text in (part.data_set or "", name))
            counts = (Cell(str(count), count) for count in (part.images, part.manipulated))
            rows.append((*words, *counts, *(format_figure(value, find_best(values)) for value in values)))
    columns = ("data set", "figure", "images", "manipulated", *labels)
    return [Table("figures per data set", columns, tuple(rows), words=2)] if rows else []


def make_mask_caption(comparison: MaskComparison) -> list[str]:
    """Return sentences on how the figures were made, and on images that have no counterpart."""
    first, source = comparison.evaluations[0], comparison.options.source
    where = "recorded with the images" if source is None else f"of {source}"
    lines = [f"true masks {where}: {first.images} images, {first.manipulated} of them manipulated"]
    if first.protocol is not None:
        lines.append(f"figures follow the protocol {first.protocol}")
    if comparison.intervals:
        lines += _explain_intervals(comparison)
    for run, evaluation in zip(comparison.runs, comparison.evaluations, strict=True):
        if evaluation.protocol is not None:
            lines.append(f"{run.label}: on {evaluation.pixels_from}")
        lines.append(f"{run.label}: image scores are from {evaluation.image_scores_from}")
        for names, meaning in (
            (evaluation.missing_images, "images with a true mask were not predicted; they count as predicted genuine"),
            (evaluation.failed_images, "images failed; they count as predicted genuine"),
            (evaluation.unknown_images, "predicted images have no true mask and do not count"),
        ):
            lines += [f"{run.label}: {len(names)} {meaning}"] if names else []
    return lines + [f"warning: {warning}" for warning in collect_warnings(comparison)]


def _explain_intervals(comparison: MaskComparison) -> list[str]:
    options, images = comparison.options, comparison.evaluations[0].images
    every = [interval.resamples for one in comparison.intervals for interval in one.values()]
    fewest = min(every, default=options.resamples)
    undefined = f"; up to {options.resamples - fewest} resamples in which a figure is not defined are not counted"
    return [
        f"Δ: difference to {comparison.runs[0].label}; paired: {options.resamples} resamples of the images, seed "
        f"{options.seed}, each of {images} images drawn with replacement, the same for both runs"
        + (undefined if fewest < options.resamples else ""),
        f"[from, to]: the middle {comparison.confidence:.0%} of the resampled differences; * leaves out zero",
    ]


def make_mask_document(comparison: MaskComparison) -> dict[str, Any]:
    """Return the whole comparison as the object that --json prints."""
    options = asdict(comparison.options)
    source = options.pop("source")
    resampling = {
        "method": METHOD,
        "images": comparison.evaluations[0].images,
        "resamples": options["resamples"],
        "seed": options["seed"],
        "confidence": comparison.confidence,
        "differences_to": comparison.runs[0].label,
    }
    return {
        "runs": identify_runs(comparison.runs),
        "options": {"masks": None if source is None else str(source), **options},
        "confidence": comparison.confidence,
        "notes": list(comparison.notes),
        "warnings": collect_warnings(comparison),
        "evaluations": [asdict(evaluation) for evaluation in comparison.evaluations],
        "resampling": resampling if comparison.intervals else None,
        "differences": [
            {name: asdict(interval) for name, interval in intervals.items()} for intervals in comparison.intervals
        ],
    }
