"""A comparison as tables: for the terminal, and as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.evaluation.coco.results import Evaluation
from orchestrator.evaluation.compare.agreement import LEVELS
from orchestrator.evaluation.compare.bootstrap import Interval
from orchestrator.evaluation.compare.compare import Comparison

FIGURES: dict[str, Callable[[Evaluation], float | None]] = {
    "AP": lambda one: one.ap,
    "AP50": lambda one: one.ap50,
    "AP75": lambda one: one.ap75,
    "APs": lambda one: one.ap_small,
    "APm": lambda one: one.ap_medium,
    "APl": lambda one: one.ap_large,
    "AR1": lambda one: one.ar1,
    "AR100": lambda one: one.ar100,
    "mAP_w": lambda one: one.weighted.map_w,
    "mAP_w@50": lambda one: one.weighted.map_w50,
    "mAP_w@75": lambda one: one.weighted.map_w75,
}
DIFFERENCES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "map_w": "mAP_w"}
DIFFERENCE_COLUMNS = tuple(f"Δ {name}" for name in DIFFERENCES.values())


@dataclass(frozen=True)
class Cell:
    """One entry: what people read, and the value behind it; `best` of its kind is set in bold."""

    text: str
    value: Any
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Columns of text and figures; the first `words` of them are text, set to the left."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int = 1


def tables(comparison: Comparison, per_category: bool, wide: bool = False) -> list[Table]:
    """The table of runs (with annotations) or of pairs of runs (without); with `per_category` one of those too.

    The differences to the first run are a table of their own, or with `wide` more columns of the first.
    """
    if not comparison.evaluations:
        return [_pairs(comparison), *([_pair_categories(comparison)] if per_category else [])]
    between = [_differences(comparison)] if comparison.intervals and not wide else []
    return [_runs(comparison, wide), *between, *([_categories(comparison)] if per_category else [])]


def caption(comparison: Comparison) -> list[str]:
    """What the figures rest on, in sentences."""
    what = "masks" if comparison.options.iou == "segm" else "boxes"
    if not comparison.evaluations:
        return [f"agreement of {what} that score at least {comparison.options.min_score:g}, 2 · pairs / instances"]
    first = comparison.evaluations[0]
    lines = [f"{what} of {first.images} annotated images, by {first.engine}"]
    if comparison.intervals:
        lines.append(
            f"Δ: to {comparison.sources[0].label}; [95% of {comparison.options.resamples} resamples of the images, "
            f"seed {comparison.options.seed}]; * leaves out zero"
        )
    for source, one in zip(comparison.sources, comparison.evaluations, strict=True):
        if one.missing:
            lines.append(f"{source.label}: {one.missing} annotated images have no predictions and count as missed")
        if one.unknown_images:
            lines.append(f"{source.label}: {len(one.unknown_images)} predicted images are not annotated, not counted")
        lines += [f"{source.label}: {note}" for note in one.notes]
    return lines


def transposed(table: Table) -> Table:
    """Figures downwards, runs across: for terminals that are not wide enough for the other way round."""
    names = tuple(", ".join(cell.text for cell in row[: table.words] if cell.text) for row in table.rows)
    rows = tuple(
        (Cell(name, name), *(row[place] for row in table.rows))
        for place, name in enumerate(table.columns)
        if place >= table.words
    )
    return Table(table.title, ("", *names), rows)


def _figure(value: float | None, best: float | None = None) -> Cell:
    text = "–" if value is None else f"{value:.3f}"
    return Cell(text, value, best=value is not None and best is not None and text == f"{best:.3f}")


def _best(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(values) > 1 and known else None


def _runs(comparison: Comparison, wide: bool) -> Table:
    evaluations = comparison.evaluations
    best = {name: _best([figure(one) for one in evaluations]) for name, figure in FIGURES.items()}
    between: tuple[dict[str, Interval] | None, ...] = (None, *comparison.intervals)
    rows = []
    for number, (source, one) in enumerate(zip(comparison.sources, evaluations, strict=True)):
        cells = [Cell(source.label, source.label), Cell(source.variant, source.variant)]
        cells += [_figure(figure(one), best[name]) for name, figure in FIGURES.items()]
        if wide and comparison.intervals:
            cells += [_difference(between[number], name) for name in DIFFERENCES]
        rows.append(tuple(cells))
    differences = DIFFERENCE_COLUMNS if wide and comparison.intervals else ()
    return Table("runs", ("model", "variant", *FIGURES, *differences), tuple(rows), words=2)


def _differences(comparison: Comparison) -> Table:
    pairs = zip(comparison.sources[1:], comparison.intervals, strict=True)
    rows = tuple(
        (Cell(source.label, source.label), *(_difference(found, name) for name in DIFFERENCES))
        for source, found in pairs
    )
    return Table("differences", (f"to {comparison.sources[0].label}", *DIFFERENCE_COLUMNS), rows)


def _difference(found: dict[str, Interval] | None, name: str) -> Cell:
    interval = (found or {}).get(name)
    if interval is None:
        return Cell("" if found is None else "–", None)
    star = "*" if interval.clear else ""
    text = f"{interval.difference:+.3f}{star} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return Cell(text.replace("-", "−"), interval)


def _categories(comparison: Comparison) -> Table:
    rows = []
    for place, category in enumerate(comparison.evaluations[0].per_category):
        values = [one.per_category[place].ap for one in comparison.evaluations]
        counts = [Cell(str(count), count) for count in (category.annotated_images, category.annotations)]
        figures = [_figure(value, _best(values)) for value in values]
        rows.append((Cell(category.name, category.name), *counts, *figures))
    columns = ("category", "images", "instances", *(source.label for source in comparison.sources))
    return Table("AP per category", columns, tuple(rows))


def _pairs(comparison: Comparison) -> Table:
    rows = []
    for one in comparison.agreements:
        words = [Cell(name, name) for name in (one.first_label, one.second_label)]
        counts = [Cell(str(count), count) for count in (one.first, one.second, one.pairs[0])]
        rows.append((*words, *counts, *(_figure(value) for value in one.agreement)))
    levels = tuple(f"agreement at {level:g}" for level in LEVELS)
    columns = ("model", "other model", "instances", "other's instances", f"pairs at {LEVELS[0]:g}", *levels)
    return Table("pairs", columns, tuple(rows), words=2)


def _pair_categories(comparison: Comparison) -> Table:
    rows = []
    for one in comparison.agreements:
        for category in one.per_category:
            total = category.first + category.second
            words = [Cell(name, name) for name in (one.first_label, one.second_label, category.name)]
            counts = [Cell(str(count), count) for count in (category.first, category.second)]
            shares = [_figure(2 * pairs / total if total else None) for pairs in category.pairs]
            rows.append((*words, *counts, *shares))
    levels = tuple(f"agreement at {level:g}" for level in LEVELS)
    columns = ("model", "other model", "category", "instances", "other's instances", *levels)
    return Table("agreement per category", columns, tuple(rows), words=3)


def as_csv(shown: Sequence[Table]) -> str:
    """Every value in full; an interval becomes three columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, table in enumerate(shown):
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
                part for name, cell in zip(table.columns, row, strict=True) for part in _plain(cell, name in spread)
            )
    return text.getvalue()


def _plain(cell: Cell, spread: bool) -> tuple[Any, ...]:
    if isinstance(cell.value, Interval):
        return cell.value.difference, cell.value.low, cell.value.high
    value = "" if cell.value is None else cell.value
    return (value, "", "") if spread else (value,)


def as_markdown(shown: Sequence[Table]) -> str:
    """GitHub's tables."""
    blocks = []
    for table in shown:
        rule = ["---"] * table.words + ["---:"] * (len(table.columns) - table.words)
        lines = [table.columns, rule, *([_starred(cell) for cell in row] for row in table.rows)]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(blocks) + "\n"


def _starred(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|").replace("*", "\\*")
    return f"**{text}**" if cell.best else text


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "Δ": r"$\Delta$", "–": "--",
          "−": "$-$", "·": r"$\cdot$", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


def as_latex(shown: Sequence[Table]) -> str:
    """tabular environments in the style of booktabs."""
    blocks = []
    for table in shown:
        columns = "l" * table.words + "r" * (len(table.columns) - table.words)
        lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row([_latex(name) for name in table.columns])]
        lines += [r"\midrule"]
        for row in table.rows:
            lines.append(
                _latex_row([f"\\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text) for cell in row])
            )
        lines += [r"\bottomrule", r"\end{tabular}"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def as_document(comparison: Comparison) -> dict[str, Any]:
    """Everything, for --json: one object."""
    runs = [
        {"label": one.label, "path": str(one.path), "model": one.model, "variant": one.variant}
        for one in comparison.sources
    ]
    return {
        "runs": runs,
        "options": asdict(comparison.options),
        "confidence": comparison.confidence,
        "notes": list(comparison.notes),
        "evaluations": [asdict(one) for one in comparison.evaluations],
        "differences": [{name: asdict(one) for name, one in found.items()} for found in comparison.intervals],
        "agreements": [asdict(one) for one in comparison.agreements],
        "agreement_levels": list(LEVELS),
    }


def as_json(comparison: Comparison) -> str:
    """`as_document` as text."""
    return json.dumps(as_document(comparison), indent=2) + "\n"
