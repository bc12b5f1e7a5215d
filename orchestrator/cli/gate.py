"""What CI jobs add to `orch run`: --fail-on, --baseline, --annotations, --junit, --summary."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import print_error, say
from orchestrator.errors import MachineError

if TYPE_CHECKING:
    from orchestrator.evaluation.gate.gate import Checked, Checks

GITHUB_SUMMARY = "GITHUB_STEP_SUMMARY"
FailOnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="RULE",
        help="End with 1 where it is broken: failed-images (the default), failed-images:5, failed-images:1%, "
        "ap-drop:0.01; repeatable.",
    ),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE|RUN",
        help="Figures to hold the run against: of orch eval --save-baseline, or a run.",
    ),
]
JunitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE.xml", help="Write a JUnit report, also when the run fails.")
]
SummaryOption = Annotated[
    Path | None,
    typer.Option(
        "--summary",
        metavar="FILE.md",
        help=f"Append a summary in Markdown. Default: ${GITHUB_SUMMARY}, where it is set.",
    ),
]


PLAIN_RULE = "failed-images"
"""The rule of every run that was given none for failed images: none may fail."""


@contextmanager
def checking(
    models: Sequence[str],
    *,
    fail_on: Sequence[str] | None,
    baseline: Path | None,
    annotations: Path | None,
    junit: Path | None,
    summary: Path | None,
) -> Iterator[Checks]:
    """Around the runs of `models`: yields what is to be told of each finished run, and writes the reports however it
    ends. Raises UsageError, PredictionsError before anything runs, MachineError where a report cannot be written."""
    from orchestrator.evaluation.gate.gate import Checks, Request

    given = os.environ.get(GITHUB_SUMMARY)
    summary = summary or (Path(given) if given else None)
    checks = Checks(Request(fail_on or (), baseline, annotations, junit, summary), models)
    try:
        yield checks
    except BaseException as error:
        checks.failed(error)
        try:
            checks.write()
        except OSError as unwritten:  # the run's own end is what counts
            say(f"the reports could not be written: {unwritten}")
        raise
    try:
        checks.write()
    except OSError as error:
        raise MachineError("the reports could not be written", why=str(error)) from error


def say_verdicts(checked: Checked, model: str | None = None, *, quiet: bool = False) -> None:
    """For people: AP beside the baseline's, and every rule that is broken; of which model, where there are several."""
    which = "" if model is None else f"{model}: "
    ap = next((change for change in checked.changes if change.name == "AP"), None)
    if not quiet and ap is not None and ap.difference is not None:
        say(f"{which}AP {ap.now:.4f}, baseline {ap.baseline:.4f}, difference {ap.difference:+.4f}")
    elif not quiet and checked.figures.get("AP") is not None:
        say(f"{which}AP {checked.figures['AP']:.4f}")
    if checked.error is not None and checked.summary is not None:  # it ran, and could not be judged
        print_error(checked.error, model)
    for verdict in checked.broken:
        if verdict.rule == PLAIN_RULE:
            continue  # the failed images were told of already
        say(f"{which}broken: {verdict.rule}: {verdict.message}")
