"""Several models in one `orch run`: `--model` more than once, `--all`, and `-f orch.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from orchestrator.cli.common import catalog, print_error, print_json, say
from orchestrator.cli.gate import say_verdicts
from orchestrator.cli.tables import print_figures, print_table
from orchestrator.errors import MachineError, OrchError, UsageError

if TYPE_CHECKING:
    from orchestrator.catalog.loader import Catalog
    from orchestrator.evaluation.gate.gate import Gate, GateResult
    from orchestrator.plan.options import RunOptions
    from orchestrator.workflows.batch import Asked, Ended
    from orchestrator.workflows.comparison import Compared

    Checking = AbstractContextManager[Gate]

WITH_FILE = ("file", "stacks", "json", "quiet", "fail_on", "baseline", "junit", "job_summary")
"""What may stand beside --file: all else is in the file."""


def refuse_incomplete(models: Sequence[str], images: Sequence[str], all_models: bool) -> None:
    """Raise UsageError unless there are models and images."""
    if not models and not all_models:
        raise UsageError("no model was given", why="orch models lists what there is", hint="orch run --help")
    if models and all_models:
        raise UsageError("--all and --model were given", why="--all is all models")
    if not images:
        which = "--all" if all_models else " ".join(f"--model {name}" for name in models)
        raise UsageError("no images were given", hint=f"orch run {which} --images FOLDER")


def per_gpu(text: str | None) -> int | Literal["auto"] | None:
    """The value of --workers-per-gpu. Raises UsageError."""
    if text is None or text == "auto":
        return "auto" if text else None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 64:
        raise UsageError(f"--workers-per-gpu {text}: must be a number from 1 to 64, or auto")
    return int(text)


@dataclass(frozen=True)
class Wanted:
    """The models asked for, and how to tell of them."""

    names: Sequence[str]
    all_models: bool
    json: bool
    quiet: bool


def run_models(known: Catalog, wanted: Wanted, options: RunOptions, checked_by: Callable[[list[str]], Checking]) -> int:
    """Run several models on the same images; the worst of their exit codes."""
    from orchestrator.workflows.batch import all_that_run, into_folders

    unable: dict[str, str] = {}
    if wanted.all_models:
        entries, unable = all_that_run(known, options)
    else:
        entries = list({entry.name: entry for entry in map(known.model, wanted.names)}.values())
    for name, reason in unable.items() if not (wanted.json or wanted.quiet) else ():
        say(f"left out: {name}: {reason}")
    if not entries:
        raise MachineError("no model can run on this machine as it is", why=_listed(unable), hint="orch doctor")
    with checked_by([entry.name for entry in entries]) as checks:
        ended = _run(into_folders(entries, options), json=wanted.json, quiet=wanted.quiet)
        judged = {name: checks.judge_end(name, one) for name, one in _results(ended).items()}
    if wanted.json:
        print_json({"runs": _told(ended, judged), **({"left_out": unable} if wanted.all_models else {})})
    else:
        _say_judged(judged, wanted.quiet)
    return checks.exit_code


def _results(ended: Mapping[str, Ended]) -> dict[str, Mapping[str, Any] | OrchError]:
    done = {name: one for name, one in ended.items() if isinstance(one, OrchError) or one.complete}
    return {name: one if isinstance(one, OrchError) else one.summary for name, one in done.items()}


def run_file(
    context: typer.Context,
    file: Path,
    stacks: list[Path] | None,
    checked_by: Callable[..., Checking],
    *,
    json: bool,
    quiet: bool,
) -> int:
    """Run a whole comparison as a file describes it: runs, comparison, report."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in WITH_FILE:
            raise UsageError(
                f"--{name.replace('_', '-')} and --file were given", why=f"all that is asked for stands in {file}"
            )
    from orchestrator.workflows.comparison import compare_and_report
    from orchestrator.workflows.comparison_file import read_comparison

    comparison = read_comparison(file, catalog(stacks))
    with checked_by([one.name for one in comparison.asked], annotations=comparison.annotations) as checks:
        ended = _run(comparison.asked, json=json, quiet=quiet)
        judged = {name: checks.judge_end(name, one) for name, one in _results(ended).items()}
    compared = compare_and_report(comparison, ended, _display(json, quiet))
    if json:
        print_json({"runs": _told(ended, judged), **compared.as_json()})
    else:
        _print_compared(compared, quiet)
        _say_judged(judged, quiet)
    return max(checks.exit_code, compared.exit_code)


def _run(asked: Sequence[Asked], *, json: bool, quiet: bool) -> dict[str, Ended]:
    from orchestrator.cli.progress import make_batch_display
    from orchestrator.workflows.batch import run_batch

    ended = run_batch(asked, make_batch_display([one.name for one in asked], json=json, quiet=quiet))
    if not json:
        _print_ended(ended, quiet)
    return ended


def _told(ended: Mapping[str, Ended], judged: Mapping[str, GateResult]) -> dict[str, Any]:
    """What --json says of each run."""
    checked = {name: one.as_json() for name, one in judged.items()}
    return {name: {**told, **checked.get(name, {})} for name, told in as_json(ended).items()}


def _say_judged(judged: Mapping[str, GateResult], quiet: bool) -> None:
    for name, one in judged.items():
        say_verdicts(one, name, quiet=quiet)


def as_json(ended: Mapping[str, Ended]) -> dict[str, Any]:
    """Summary or error of each run, by name."""
    return {name: _as_json(one) for name, one in ended.items()}


def _as_json(one: Ended) -> dict[str, Any]:
    if isinstance(one, OrchError):
        return one.as_json()
    return one.summary if one.complete else {"run": str(one.paths.root), "state": "submitted"}


def _print_ended(ended: Mapping[str, Ended], quiet: bool) -> None:
    rows = []
    for name, one in ended.items():
        if isinstance(one, OrchError):
            print_error(one, name)
        elif not one.complete:
            say(f"{name}: it goes on by itself; next: orch attach {one.paths.root}")
        else:
            summary = one.summary
            counts = [str(summary[key]) for key in ("predicted", "failed", "instances")]
            rows.append([name, *counts, f"{summary['seconds']['dispatch']:.1f}", summary["predictions"]])
            if summary["failed"]:
                say(f"{name}: {summary['failed']} images failed, listed in {one.paths.summary}")
    if rows and not quiet:
        print_table(["model", "predicted", "failed", "instances", "seconds", "predictions"], rows)


def _print_compared(compared: Compared, quiet: bool) -> None:
    from orchestrator.reports.tables import make_caption, make_tables

    if compared.comparison is not None and not quiet:
        for line in (*compared.comparison.notes, *make_caption(compared.comparison)):
            say(line)
        print_figures(make_tables(compared.comparison, per_category=False))
    for error in compared.errors:
        print_error(error)
    for path in compared.written:
        say(f"wrote {path}")


def _display(json: bool, quiet: bool) -> Any:
    from orchestrator.cli.progress import make_display

    return make_display(json=json, quiet=quiet)


def _listed(reasons: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {reason}" for name, reason in reasons.items())
