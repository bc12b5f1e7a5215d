"""`orch ls` and `orch rerun`: the runs of this user, and one of them once more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError


def list_runs(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Only runs below this folder. Default: all that are known here."),
    ] = None,
    json: common.JsonOption = False,
) -> None:
    """List runs, newest first: model, images, failures, state, device, size."""
    from orchestrator.workflows import list_runs as find

    if folder is not None and not folder.is_dir():
        raise UsageError(f"no such folder: {folder}", hint="orch ls")
    runs = find(folder)
    if json:
        common.print_json({"runs": [run.as_json() for run in runs]})
        return
    if not runs:
        common.say("no runs here yet; orch run MODEL IMAGES makes one")
        return
    from orchestrator.runtimes import format_size

    rows = [
        [
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)),
            run.model or "",
            "" if run.images is None else str(run.images),
            "" if run.failed is None else str(run.failed),
            run.state,
            " ".join(filter(None, (run.runtime, run.variant, run.device))),
            format_size(run.bytes),
            _short(run.path),
        ]
        for run in runs
    ]
    print_table(
        ["when", "model", "images", "failed", "state", "ran on", "size", "run"], rows, optional=["size", "ran on"]
    )


def _short(path: str) -> str:
    """Return a path relative to the working folder where it is below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def rerun(
    run: Annotated[Path, typer.Argument(metavar="RUN|predictions.npz", help="A run directory, or its predictions.")],
    images: Annotated[
        list[str] | None,
        typer.Option("--images", "-i", metavar="SOURCE", help="Images, where they are elsewhere now; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", callback=common.check_folder, help="Run directory. Default: RUN-rerun."
        ),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="NAME", help="Another runtime than the recorded one.")
    ] = None,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
    quiet: common.QuietOption = False,
) -> int:
    """Repeat a run from what it recorded, and say whether the predictions are the same."""
    from orchestrator.cli.progress import make_display
    from orchestrator.workflows import find_differences, read_repetition, run_model

    repetition = read_repetition(run, images or [], out, runtime)
    if not repetition.predictions.is_file():
        hint = "the same orch run completes it; then orch rerun repeats it"
        raise UsageError(f"{run} has no predictions to compare with", why="the run is not complete", hint=hint)
    entry = common.catalog(stacks).model(repetition.model)
    outcome = run_model(entry, repetition.options, make_display(json=json, quiet=quiet))
    new = outcome.paths.predictions
    found = find_differences(repetition.predictions, new)
    if json:
        common.print_json({**outcome.summary, "recorded": str(repetition.predictions), **found.as_json()})
    elif not quiet:
        for name, (old, now) in found.provenance.items():
            common.say(f"not the same: {name} was {old}, now {now}")
        if found.arrays:
            common.say(f"differs in {', '.join(found.arrays)}: orch compare {repetition.predictions} {new}")
        else:
            common.say("every array is the same")
        common.say(f"predictions: {new}")
    return EXIT_SOME_FAILED if found.arrays else EXIT_OK
