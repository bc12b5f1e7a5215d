"""--fail-on, --baseline, --junit, --summary of `orch run`; `orch compare RUN --baseline`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.common import check_file, print_error, print_json, say
from orchestrator.cli.evaluation import say_warnings
from orchestrator.cli.tables import write_figures
from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED, MachineError, UsageError
from orchestrator.system import require_file

if TYPE_CHECKING:
    from orchestrator.evaluation import FigureChange, Gate, GateResult
    from orchestrator.reports import Table

GITHUB_SUMMARY = "GITHUB_STEP_SUMMARY"
IMPLIED_RULE = "failed-images"  # of every run without another rule on failed images: none may fail
FailOnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="RULE",
        help="End with exit code 1 if the run breaks this rule: failed-images (the default), failed-images:5, "
        "failed-images:1%, ap-drop:0.01; repeatable.",
    ),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE|RUN",
        help="Figures to compare the run with: a file of orch eval --save-baseline, or a run.",
    ),
]
JunitOption = Annotated[
    Path | None,
    typer.Option(
        "--junit", metavar="FILE.xml", callback=check_file, help="Write a JUnit report, also when the run fails."
    ),
]
SummaryOption = Annotated[
    Path | None,
    typer.Option(
        "--summary", metavar="FILE.md", help=f"Append a summary in Markdown. Default: ${GITHUB_SUMMARY}, if it is set."
    ),
]


@contextmanager
def open_gate(
    models: Sequence[str],
    *,
    fail_on: Sequence[str] | None,
    baseline: Path | None,
    annotations: Path | None,
    junit: Path | None,
    summary: Path | None,
) -> Iterator[Gate]:
    """Yield the gate that judges the runs of `models`; write both reports at the end, also after an error.

    Raises UsageError, PredictionsError before anything runs, MachineError when a report cannot be written.
    """
    from orchestrator.evaluation import Gate, check_gate_options, parse_rules

    rules = parse_rules(fail_on or ())
    check_gate_options(rules, annotations, baseline)
    measure = None
    if annotations is not None:  # a run without annotations needs neither numpy nor an evaluation engine
        from orchestrator.evaluation import Baselines

        measure = Baselines(models, annotations, baseline).measure
    default = os.environ.get(GITHUB_SUMMARY)
    if summary is not None:
        require_file(summary, "--summary", append=True)
    elif default:
        summary = Path(default)
        require_file(summary, f"${GITHUB_SUMMARY}", append=True)
    gate = Gate(rules, models, measure)
    try:
        yield gate
    except BaseException as error:
        gate.record_failure(error)
        try:
            _write_reports(gate, junit, summary)
        except OSError as unwritten:  # the error that ended the run is the one to report
            say(f"cannot write the reports: {unwritten}")
        raise
    try:
        _write_reports(gate, junit, summary)
    except OSError as error:
        raise MachineError("cannot write the reports", why=str(error)) from error


def _write_reports(gate: Gate, junit: Path | None, summary: Path | None) -> None:
    """Write the JUnit report and the job summary, if wanted. Raises OSError."""
    results = gate.finish()
    if junit is not None:
        from orchestrator.reports import write_junit

        write_junit(junit, results)
    if summary is not None:
        from orchestrator.reports import append_summary

        append_summary(summary, results)


def say_verdicts(result: GateResult, model: str | None = None, *, quiet: bool = False) -> None:
    """Print AP, its difference to the baseline, and every broken rule; `model` if there are several."""
    prefix = "" if model is None else f"{model}: "
    ap = next((change for change in result.changes if change.name == "AP"), None)
    if not quiet and ap is not None and ap.difference is not None:
        say(f"{prefix}AP {ap.now:.4f}, baseline {ap.baseline:.4f}, difference {ap.difference:+.4f}")
    elif not quiet and result.figures.get("AP") is not None:
        say(f"{prefix}AP {result.figures['AP']:.4f}")
    if result.error is not None and result.summary is not None:  # the run finished, but could not be judged
        print_error(result.error, model)
    if not quiet:
        say_warnings(result.warnings, prefix)
    for verdict in result.broken:
        if verdict.rule != IMPLIED_RULE:  # the failed images are listed already
            say(f"{prefix}broken: {verdict.rule}: {verdict.message}")


def compare_to_baseline(
    files: Sequence[Path],
    path: Path,
    annotations: Path | None,
    fail_on: Sequence[str],
    iou: Literal["segm", "bbox"] | None,
    chosen: Sequence[str | int],
    engine: str,
    attribute_score: float | None,
    strict: bool,
    protocol: str | None,
    *,
    per_category: bool,
    format_name: str,
    output: Path | None,
    json: bool,
) -> int:
    """Print figures of the baseline `path` and of a run; return 1 if a rule is broken.

    `chosen` are the categories to evaluate. Raises UsageError, PredictionsError.
    """
    from orchestrator.evaluation import (
        compare_categories,
        compare_figures,
        evaluate_with_baseline,
        format_verdicts,
        judge_rules,
        note_unknown_images,
        parse_rules,
    )

    if len(files) != 1:
        raise UsageError("--baseline compares one run", why=f"{len(files)} were given")
    if annotations is None:
        hint = f"orch compare {files[0]} --baseline {path} --annotations COCO.json"
        raise UsageError("--baseline needs annotations", hint=hint)
    rules = parse_rules(fail_on, implied=False)
    baseline, now, findings = evaluate_with_baseline(
        files[0], path, annotations, iou, chosen, engine, attribute_score, strict, protocol
    )
    figures, categories = compare_figures(baseline, now), compare_categories(baseline, now)
    verdicts = judge_rules(rules, findings)
    notes = note_unknown_images(baseline, now)
    code = EXIT_SOME_FAILED if any(verdict.is_broken for verdict in verdicts) else EXIT_OK
    document = {
        "run": str(files[0]),
        "model": now.model,
        "variant": now.variant,
        "baseline": {"path": str(path), "model": baseline.model, "variant": baseline.variant},
        "protocol": now.settings["protocol"],
        "figures": {change.name: change.as_json() for change in figures},
        "categories": {change.name: change.as_json() for change in categories},
        "notes": notes,
        "warnings": list(now.warnings),
        **format_verdicts(verdicts),
    }
    if json:
        print_json(document)
        return code
    if (baseline.model, baseline.variant) != (now.model, now.variant):
        say(f"note: the baseline is of {baseline.model} {baseline.variant}, the run of {now.model} {now.variant}")
    for note in notes:
        say(f"note: {note}")
    say_warnings(now.warnings)
    tables = [_make_table("baseline", "", figures)]
    tables += [_make_table("AP per category", "category", categories)] if per_category else []
    write_figures(document, tables, format_name, output)
    for verdict in verdicts:
        say(f"{'broken' if verdict.is_broken else 'kept'}: {verdict.rule}: {verdict.message}")
    return code


def _make_table(title: str, first_column: str, changes: Sequence[FigureChange]) -> Table:
    from orchestrator.reports import Cell, Table

    def cell(value: float | None, sign: str = "") -> Cell:
        return Cell("–" if value is None else format(value, f"{sign}.4f").replace("-", "−"), value)

    rows = [
        (Cell(change.name, change.name), cell(change.baseline), cell(change.now), cell(change.difference, "+"))
        for change in changes
    ]
    return Table(title, (first_column, "baseline", "now", "difference"), tuple(rows))
