"""Several models in one `orch run`: `--model` more than once, `--all`, and `-f orch.yaml`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.common import catalog, print_error, print_json, say
from orchestrator.cli.gate import say_verdicts
from orchestrator.cli.tables import print_figures, print_table
from orchestrator.errors import MachineError, OrchError, UsageError
from orchestrator.system import count_of

if TYPE_CHECKING:
    from orchestrator.catalog import Catalog
    from orchestrator.evaluation import Gate, GateResult
    from orchestrator.plan import RunOptions
    from orchestrator.workflows import Compared, RunRequest, RunResult

    Checking = AbstractContextManager[Gate]

WITH_FILE = ("file", "update", "stacks", "json", "quiet", "fail_on", "baseline", "junit", "job_summary")
"""Options that may be given with --file; the file contains all others."""


def refuse_incomplete(models: Sequence[str], images: Sequence[str], all_models: bool) -> None:
    """Raise UsageError unless there are models and images."""
    if not models and not all_models:
        raise UsageError("no model was given", why="orch models lists all models", hint="orch run --help")
    if models and all_models:
        raise UsageError("--all and --model were given", why="--all runs all models")
    if not images:
        which = "--all" if all_models else " ".join(f"--model {name}" for name in models)
        raise UsageError("no images were given", hint=f"orch run {which} --images FOLDER")


def refuse_path_for_model(word: str, known: Catalog) -> None:
    """Raise UsageError where the first word is a path and not the name of a model."""
    if Path(word).exists() and word not in known.models and word not in known.aliases:
        why = f"{word} is a file or folder; the first word is a model, see orch models"
        raise UsageError("no model was given", why=why, hint=f"orch run MODEL {word}")


def read_standard_input(sources: Sequence[str]) -> list[str]:
    """Return the sources, a list of the names that come from standard input for "-"."""
    from orchestrator.inputs import save_names

    if isinstance(sys.stdin, io.TextIOWrapper):  # names are bytes: as the file system's, whatever the locale
        sys.stdin.reconfigure(errors="surrogateescape")
    return [str(save_names(sys.stdin or ())) if source == "-" else source for source in sources]


def run_models(
    known: Catalog,
    names: Sequence[str],
    options: RunOptions,
    checked_by: Callable[[list[str]], Checking],
    *,
    json: bool,
    quiet: bool,
) -> int:
    """Run several models on the same images, all without `names`; return the highest of their exit codes."""
    from orchestrator.workflows import find_runnable, make_requests

    skipped: dict[str, str] = {}
    if names:
        entries = list({entry.name: entry for entry in map(known.model, names)}.values())
    else:
        entries, skipped = find_runnable(known, options)
    for name, reason in skipped.items() if not (json or quiet) else ():
        say(f"skipped: {name}: {reason}")
    if not entries:
        why = "\n".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise MachineError("this machine supports no model without further steps", why=why, hint="orch doctor")
    with checked_by([entry.name for entry in entries]) as checks:
        results = _run(make_requests(entries, options), json=json, quiet=quiet)
        judged = _judge(checks, results)
    if json:
        print_json({"runs": _as_json(results, judged), **({} if names else {"left_out": skipped})})
    else:
        _say_judged(judged, quiet)
    return checks.exit_code


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
            raise UsageError(f"--{name.replace('_', '-')} and --file were given", why=f"write it into {file} instead")
    from orchestrator.cli.progress import make_display
    from orchestrator.workflows import compare_and_report, read_comparison

    comparison = read_comparison(file, catalog(stacks), update=bool(context.params["update"]))
    with checked_by([run.name for run in comparison.runs], annotations=comparison.annotations) as checks:
        results = _run(comparison.runs, json=json, quiet=quiet)
        judged = _judge(checks, results)
    compared = compare_and_report(comparison, results, make_display(json=json, quiet=quiet))
    if json:
        print_json({"runs": _as_json(results, judged), **compared.as_json()})
    else:
        _print_compared(compared, quiet)
        _say_judged(judged, quiet)
    return max(checks.exit_code, compared.exit_code)


def _run(requests: Sequence[RunRequest], *, json: bool, quiet: bool) -> dict[str, RunResult]:
    from orchestrator.cli.progress import make_batch_display
    from orchestrator.workflows import run_batch

    names = [request.name for request in requests]
    results = run_batch(requests, make_batch_display(names, json=json, quiet=quiet))
    if not json:
        _print_results(results, quiet)
    return results


def _judge(checks: Gate, results: Mapping[str, RunResult]) -> dict[str, GateResult]:
    """Judge each run that ended; one that continues on a cluster is not judged."""
    ended = {name: result for name, result in results.items() if isinstance(result, OrchError) or result.complete}
    return {
        name: checks.judge_end(name, result if isinstance(result, OrchError) else result.summary)
        for name, result in ended.items()
    }


def _as_json(results: Mapping[str, RunResult], judged: Mapping[str, GateResult]) -> dict[str, Any]:
    """Return what --json prints of each run: its summary or error, and its verdicts."""
    document: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        if isinstance(result, OrchError):
            document[name] = result.as_json()
        elif result.complete:
            document[name] = dict(result.summary)
        else:
            document[name] = {"run": str(result.paths.root), "state": "submitted"}
        if name in judged:
            document[name].update(judged[name].as_json())
    return document


def _say_judged(judged: Mapping[str, GateResult], quiet: bool) -> None:
    for name, result in judged.items():
        say_verdicts(result, name, quiet=quiet)


def _print_results(results: Mapping[str, RunResult], quiet: bool) -> None:
    rows = []
    for name, result in results.items():
        if isinstance(result, OrchError):
            print_error(result, name)
        elif not result.complete:
            say(f"{name}: the run continues on the cluster; to follow it: orch attach {result.paths.root}")
        else:
            summary = result.summary
            counts = [str(summary[key]) for key in ("predicted", "failed", "instances")]
            rows.append([name, *counts, f"{summary['seconds']['dispatch']:.1f}", summary["predictions"]])
            if summary["failed"]:
                say(f"{name}: {count_of(summary['failed'], 'image')} failed, listed in {result.paths.summary}")
    if rows and not quiet:
        print_table(["model", "predicted", "failed", "instances", "seconds", "predictions"], rows)


def _print_compared(compared: Compared, quiet: bool) -> None:
    from orchestrator.reports import make_caption, make_tables

    if compared.comparison is not None and not quiet:
        for line in (*compared.comparison.notes, *make_caption(compared.comparison)):
            say(line)
        print_figures(make_tables(compared.comparison, per_category=False))
    for error in compared.errors:
        print_error(error)
    for path in compared.written:
        say(f"wrote {path}")
