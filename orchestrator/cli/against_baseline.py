"""`orch compare RUN --baseline FILE|RUN`: one run against stored figures, and the rules it must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.cli.common import print_json, say
from orchestrator.cli.comparison import print_rich, write_or_print
from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError

if TYPE_CHECKING:
    from orchestrator.evaluation.gate.baseline import Change
    from orchestrator.reports.tables import Table


@dataclass(frozen=True)
class Against:
    """What was asked: the run, what it is held against, on which truth, over what, by which rules."""

    run: Path
    baseline: Path
    annotations: Path
    iou: Literal["segm", "bbox"]
    categories: Sequence[str | int]
    engine: str
    fail_on: Sequence[str]
    per_category: bool


def asked(
    files: Sequence[Path], baseline: Path, annotations: Path | None, fail_on: Sequence[str] | None, **rest: Any
) -> Against:
    """The request, once it makes sense. Raises UsageError."""
    if len(files) != 1:
        raise UsageError("one run is compared with a baseline", why=f"{len(files)} were given")
    if annotations is None:
        hint = f"orch compare {files[0]} --baseline {baseline} --annotations COCO.json"
        raise UsageError("--baseline needs the truth too", hint=hint)
    return Against(files[0], baseline, annotations, fail_on=fail_on or (), **rest)


def compare_to_baseline(request: Against, format_name: str, output: Path | None, json: bool) -> int:
    """Print figures then and now; 1 where a rule is broken. Raises UsageError, PredictionsError."""
    from orchestrator.evaluation.gate.baseline import category_changes, changes, hold_against
    from orchestrator.evaluation.gate.rules import judge, parse_rules, verdicts_json

    rules = parse_rules(request.fail_on, implied=False)
    baseline, now, counted = hold_against(
        request.run, request.baseline, request.annotations, request.iou, request.categories, request.engine
    )
    figures, categories = changes(baseline, now), category_changes(baseline, now)
    verdicts = judge(rules, counted.with_ap(now.figures.get("AP"), baseline.figures.get("AP")))
    code = EXIT_SOME_FAILED if any(one.broken for one in verdicts) else EXIT_OK
    document = {
        "run": str(request.run),
        "model": now.model,
        "variant": now.variant,
        "baseline": {"path": str(request.baseline), "model": baseline.model, "variant": baseline.variant},
        "figures": {one.name: one.as_json() for one in figures},
        "categories": {one.name: one.as_json() for one in categories},
        **verdicts_json(verdicts),
    }
    if json:
        print_json(document)
        return code
    if (baseline.model, baseline.variant) != (now.model, now.variant):
        say(f"note: the baseline is of {baseline.model} {baseline.variant}, the run of {now.model} {now.variant}")
    shown = [_table("baseline", "", figures)]
    shown += [_table("AP per category", "category", categories)] if request.per_category else []
    if format_name == "rich" and output is None:
        print_rich(shown)
    else:
        write_or_print(_formatted(document, shown, format_name), output)
    for verdict in verdicts:
        say(f"{'broken' if verdict.broken else 'kept'}: {verdict.rule}: {verdict.message}")
    return code


def _table(title: str, first: str, rows: Sequence[Change]) -> Table:
    from orchestrator.reports.tables import Cell, Table

    def figure(value: float | None, sign: str = "") -> Cell:
        return Cell("–" if value is None else format(value, f"{sign}.4f").replace("-", "−"), value)

    cells = [
        (Cell(one.name, one.name), figure(one.baseline), figure(one.now), figure(one.difference, "+")) for one in rows
    ]
    return Table(title, (first, "baseline", "now", "difference"), tuple(cells))


def _formatted(document: dict[str, Any], shown: list[Table], format_name: str) -> str:
    import json

    from orchestrator.reports.tables import as_csv, as_latex, as_markdown

    if format_name == "json":
        return json.dumps(document, indent=2) + "\n"
    return {"csv": as_csv, "latex": as_latex}.get(format_name, as_markdown)(shown)
