"""A comparison as tables, and these as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.evaluation import (
    DEFAULT,
    LEVELS,
    METHOD,
    Comparison,
    Evaluation,
    Interval,
    Localization,
    MaskComparison,
    OpenedRun,
    choose_figures,
)
from orchestrator.system import count_of

DIFFERENCES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "map_w": "mAP_w"}
RECORDED = ("device", "runtime", "image_digest", "build", "weights")  # of each run, in JSON
DIFFERENCE_COLUMNS = tuple(f"Δ {name}" for name in DIFFERENCES.values())


@dataclass(frozen=True)
class Cell:
    """One entry: its text, and the value behind it; the `best` of its kind is printed bold."""

    text: str
    value: Any
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of text and figures; the first `words` columns are text, aligned left."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1


def make_tables(comparison: Comparison, per_category: bool, wide: bool = False) -> list[Table]:
    """Return the table of runs, or without annotations of pairs; `per_category` adds one.

    The differences to the first run are a table of their own, or with `wide` more columns of the first table.
    """
    if not comparison.evaluations:
        return [_list_pairs(comparison), *([_list_pair_categories(comparison)] if per_category else [])]
    differences = [_list_differences(comparison)] if comparison.intervals and not wide else []
    categories = [_list_categories(comparison), *_list_attribute_categories(comparison)] if per_category else []
    return [_list_runs(comparison, wide), *differences, *categories]


def make_caption(comparison: Comparison) -> list[str]:
    """Return sentences on how the figures were made, and on images that have no counterpart."""
    what = "masks" if comparison.options.iou == "segm" else "boxes"
    if not comparison.evaluations:
        return [f"agreement of {what} that score at least {comparison.options.min_score:g}, 2 · pairs / instances"]
    first = comparison.evaluations[0]
    lines = [f"{what} of {count_of(first.images, 'annotated image')}, by {first.engine}"]
    if first.protocol != DEFAULT:
        lines.append(f"figures follow the protocol {first.protocol}")
    if comparison.intervals:
        lines += _explain_intervals(comparison)
    for run, evaluation in zip(comparison.runs, comparison.evaluations, strict=True):
        missing, unknown = evaluation.missing, len(evaluation.unknown_images)
        if missing:
            have, count = ("has", "counts") if missing == 1 else ("have", "count")
            images = count_of(missing, "annotated image")
            lines.append(f"{run.label}: {images} {have} no predictions and {count} as missed")
        if unknown:
            are = "is" if unknown == 1 else "are"
            lines.append(f"{run.label}: {count_of(unknown, 'predicted image')} {are} not annotated, not counted")
        lines += [f"{run.label}: {note}" for note in evaluation.notes]
    lines += _describe_attributes(comparison.evaluations)
    return lines + [f"warning: {warning}" for warning in collect_warnings(comparison)]


def _describe_attributes(evaluations: Sequence[Evaluation]) -> list[str]:
    scores = {evaluation.attributes.score for evaluation in evaluations if evaluation.attributes is not None}
    how = "AP_IoU+F1 (Fashionpedia): instances must reach an IoU and an F1 score of the attributes that score above"
    return [f"{how} {score:g}" for score in scores]


def _explain_intervals(comparison: Comparison) -> list[str]:
    """Return sentences on what was resampled, how often, and what an interval holds."""
    resamples, images = comparison.options.resamples, comparison.evaluations[0].images
    fewest = min((interval.resamples for one in comparison.intervals for interval in one.values()), default=resamples)
    undefined = f"; {resamples - fewest} resamples without annotations are not counted" if fewest < resamples else ""
    return [
        f"Δ: difference to {comparison.runs[0].label}; paired: {resamples} resamples of the images, seed "
        f"{comparison.options.seed}, each of {count_of(images, 'image')} drawn with replacement, the same for both runs"
        f"{undefined}",
        f"[from, to]: the middle {comparison.confidence:.0%} of the resampled differences; * leaves out zero",
    ]


def collect_warnings(comparison: Comparison | MaskComparison) -> list[str]:
    """Return what is doubtful about the truth; what is so for some runs only, with their labels."""
    labels: dict[str, list[str]] = {}
    evaluations: Sequence[Evaluation | Localization] = comparison.evaluations
    for run, evaluation in zip(comparison.runs, evaluations, strict=False):  # without annotations none
        for warning in evaluation.warnings:
            labels.setdefault(warning, []).append(run.label)
    count = len(comparison.runs)
    return [warning if len(own) == count else f"{', '.join(own)}: {warning}" for warning, own in labels.items()]


def transpose(table: Table) -> Table:
    """Return the table with a row per figure and a column per run, for narrow terminals."""
    names = tuple(", ".join(cell.text for cell in row[: table.words] if cell.text) for row in table.rows)
    rows = tuple(
        (Cell(name, name), *(row[index] for row in table.rows))
        for index, name in enumerate(table.columns)
        if index >= table.words
    )
    return Table(table.title, ("", *names), rows)


def format_figure(value: float | None, best: float | None = None) -> Cell:
    text = "–" if value is None else f"{value:.3f}"
    return Cell(text, value, best=value is not None and best is not None and text == f"{best:.3f}")


def find_best(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(values) > 1 and known else None


def _list_runs(comparison: Comparison, wide: bool) -> Table:
    evaluations = comparison.evaluations
    has_protocol = evaluations[0].protocol != DEFAULT
    figures = choose_figures(evaluations)
    best = {name: find_best([figure(evaluation) for evaluation in evaluations]) for name, figure in figures.items()}
    intervals: tuple[dict[str, Interval] | None, ...] = (None, *comparison.intervals)
    differences = _name_differences(comparison)
    rows = []
    for number, (run, evaluation) in enumerate(zip(comparison.runs, evaluations, strict=True)):
        cells = [Cell(run.label, run.label), Cell(run.variant, run.variant)]
        cells += [Cell(evaluation.protocol, evaluation.protocol)] if has_protocol else []
        cells += [format_figure(figure(evaluation), best[name]) for name, figure in figures.items()]
        if wide and comparison.intervals:
            cells += [format_difference(intervals[number], name) for name in differences]
        rows.append(tuple(cells))
    columns = differences.values() if wide and comparison.intervals else ()
    words = ("model", "variant", *(["protocol"] if has_protocol else []))
    return Table("runs", (*words, *figures, *columns), tuple(rows), words=len(words))


def _name_differences(comparison: Comparison) -> dict[str, str]:
    """Return the columns of differences by the names of their intervals, those whose figures are shown."""
    shown = choose_figures(comparison.evaluations)
    return {name: f"Δ {figure}" for name, figure in DIFFERENCES.items() if figure in shown}


def _list_differences(comparison: Comparison) -> Table:
    differences = _name_differences(comparison)
    rows = tuple(
        (Cell(run.label, run.label), *(format_difference(intervals, name) for name in differences))
        for run, intervals in zip(comparison.runs[1:], comparison.intervals, strict=True)
    )
    return Table("differences", (f"to {comparison.runs[0].label}", *differences.values()), rows)


def format_difference(intervals: dict[str, Interval] | None, name: str) -> Cell:
    interval = (intervals or {}).get(name)
    if interval is None:
        return Cell("" if intervals is None else "–", None)
    star, nearest = "*" if interval.is_clear else "", min(abs(interval.low), abs(interval.high))
    # A bound that is shown as zero would contradict the star.
    digits = next((n for n in range(3, 7) if not star or round(nearest, n)), 7)
    text = f"{interval.difference:+.{digits}f}{star} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return Cell(text.replace("-", "−"), interval)


def _list_categories(comparison: Comparison) -> Table:
    rows = []
    for index, category in enumerate(comparison.evaluations[0].per_category):
        values = [evaluation.per_category[index].ap for evaluation in comparison.evaluations]
        counts = [Cell(str(count), count) for count in (category.annotated_images, category.annotations)]
        figures = [format_figure(value, find_best(values)) for value in values]
        rows.append((Cell(category.name, category.name), *counts, *figures))
    columns = ("category", "images", "instances", *(run.label for run in comparison.runs))
    return Table("AP per category", columns, tuple(rows))


def _list_attribute_categories(comparison: Comparison) -> list[Table]:
    """Return a table of AP_IoU+F1 by category with attributes, if any run has such."""
    known = [{} if one.attributes is None else one.attributes.per_category for one in comparison.evaluations]
    rows = []
    for category in comparison.evaluations[0].per_category:
        if any(category.id in figures for figures in known):
            values = [figures.get(category.id) for figures in known]
            cells = (format_figure(value, find_best(values)) for value in values)
            rows.append((Cell(category.name, category.name), *cells))
    columns = ("category", *(run.label for run in comparison.runs))
    return [Table("AP_IoU+F1 per category", columns, tuple(rows))] if rows else []


def _list_pairs(comparison: Comparison) -> Table:
    rows = []
    for pair in comparison.agreements:
        words = [Cell(name, name) for name in (pair.first_label, pair.second_label)]
        counts = [Cell(str(count), count) for count in (pair.first, pair.second, pair.pairs[0])]
        rows.append((*words, *counts, *(format_figure(value) for value in pair.agreement)))
    levels = tuple(f"agreement at {level:g}" for level in LEVELS)
    columns = ("model", "other model", "instances", "other's instances", f"pairs at {LEVELS[0]:g}", *levels)
    return Table("pairs", columns, tuple(rows), words=2)


def _list_pair_categories(comparison: Comparison) -> Table:
    rows = []
    for pair in comparison.agreements:
        for category in pair.per_category:
            total = category.first + category.second
            words = [Cell(name, name) for name in (pair.first_label, pair.second_label, category.name)]
            counts = [Cell(str(count), count) for count in (category.first, category.second)]
            shares = [format_figure(2 * pairs / total if total else None) for pairs in category.pairs]
            rows.append((*words, *counts, *shares))
    levels = tuple(f"agreement at {level:g}" for level in LEVELS)
    columns = ("model", "other model", "category", "instances", "other's instances", *levels)
    return Table("agreement per category", columns, tuple(rows), words=3)


def format_csv(tables: Sequence[Table]) -> str:
    """Return the tables as CSV, every value in full; an interval becomes three columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, table in enumerate(tables):
        if number:
            writer.writerow([])
        spread = {name for name in table.columns if name.startswith("Δ ")}
        writer.writerow(
            part
            for name in table.columns
            for part in ((name, f"{name} low", f"{name} high") if name in spread else (name,))
        )
        for row in table.rows:
            writer.writerow(
                part for name, cell in zip(table.columns, row, strict=True) for part in _split(cell, name in spread)
            )
    return text.getvalue()


def _split(cell: Cell, spread: bool) -> tuple[Any, ...]:
    if isinstance(cell.value, Interval):
        return cell.value.difference, cell.value.low, cell.value.high
    value = "" if cell.value is None else cell.value
    return (value, "", "") if spread else (value,)


def format_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as GitHub's Markdown."""
    blocks = []
    for table in tables:
        rule = ["---"] * table.words + ["---:"] * (len(table.columns) - table.words)
        lines = [table.columns, rule, *([_mark_best(cell) for cell in row] for row in table.rows)]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(blocks) + "\n"


def _mark_best(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|").replace("*", "\\*")
    return f"**{text}**" if cell.best else text


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "Δ": r"$\Delta$", "–": "--",
          "−": "$-$", "·": r"$\cdot$", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


def format_latex(tables: Sequence[Table]) -> str:
    """Return the tables as LaTeX: tabular environments for the package booktabs."""
    blocks = []
    for table in tables:
        columns = "l" * table.words + "r" * (len(table.columns) - table.words)
        head = _join_latex(Cell(name, name) for name in table.columns)
        body = [_join_latex(row) for row in table.rows]
        lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        blocks.append("\n".join([*lines, r"\end{tabular}"]))
    return "\n\n".join(blocks) + "\n"


def _join_latex(cells: Iterable[Cell]) -> str:
    return f"{' & '.join(map(_format_latex, cells))} \\\\"


def _format_latex(cell: Cell) -> str:
    text = "".join(_LATEX.get(sign, sign) for sign in cell.text)
    return f"\\textbf{{{text}}}" if cell.best else text


def make_document(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison as the object that --json prints."""
    return {
        "runs": identify_runs(comparison.runs),
        "options": asdict(comparison.options),
        "confidence": comparison.confidence,
        "notes": list(comparison.notes),
        "warnings": collect_warnings(comparison),
        "evaluations": [asdict(evaluation) for evaluation in comparison.evaluations],
        "resampling": _describe_resampling(comparison),
        "differences": [
            {name: asdict(interval) for name, interval in intervals.items()} for intervals in comparison.intervals
        ],
        "agreements": [asdict(agreement) for agreement in comparison.agreements],
        "agreement_levels": list(LEVELS),
    }


def identify_runs(runs: Sequence[OpenedRun]) -> list[dict[str, Any]]:
    """Return for each run what was compared: its label and path, and what its predictions record of their making."""
    return [
        {"label": run.label, "path": str(run.path), "model": run.model, "variant": run.variant}
        | {name: run.predictions.meta.get(name) for name in RECORDED}
        for run in runs
    ]


def _describe_resampling(comparison: Comparison) -> dict[str, Any] | None:
    if not comparison.intervals:
        return None
    options = comparison.options
    return {
        "method": METHOD,
        "images": comparison.evaluations[0].images,
        "resamples": options.resamples,
        "seed": options.seed,
        "confidence": comparison.confidence,
        "differences_to": comparison.runs[0].label,
    }


def format_json(comparison: Comparison) -> str:
    return json.dumps(make_document(comparison), indent=2) + "\n"
