"""`orch status`, `orch attach` and `orch cancel`, on a run directory, from any machine that sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import JsonOption, QuietOption, print_json, say
from orchestrator.cli.run import report_outcome
from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED
from orchestrator.system import count_of

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")]


def status(run: RunArgument, json: JsonOption = False) -> None:
    """Show the state of a run: complete, running, or waiting in the cluster's queue and why."""
    from orchestrator.dispatch import read_status
    from orchestrator.paths import RunPaths

    state = read_status(RunPaths(run.absolute()))
    if json:
        print_json(state)
        return
    job = f", job {state['job']}" if "job" in state else ""
    say(f"{state['run']}: {state['model']}, {state['state']}{job}")
    say(f"  {state['shards_done']} of {state['shards']} shards done, {count_of(state['images'], 'image')}")
    for task, description in state.get("tasks", {}).items():
        say(f"  {task}: {description}")
    for ended in state.get("ended_with", ()):
        why = f": {ended['why']}" if ended["why"] else ""
        say(f"  task {ended['task']} on {ended['node']}, {ended['state']}: {ended['message']}{why}")


def attach(run: RunArgument, json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Show the progress of a run on a cluster until it is complete. Ctrl-C does not stop the run."""
    from orchestrator.cli.progress import make_display
    from orchestrator.dispatch import follow_run
    from orchestrator.paths import RunPaths

    outcome = follow_run(RunPaths(run.absolute()), make_display(json=json, quiet=quiet))
    report_outcome(outcome, None, json=json, quiet=quiet)
    return EXIT_SOME_FAILED if outcome.failed else EXIT_OK


def cancel(run: RunArgument, json: JsonOption = False) -> None:
    """End a run on a cluster; no job, process or container is left. Finished shards are kept; orch run resumes."""
    from orchestrator.cli.progress import make_display
    from orchestrator.dispatch import cancel_run
    from orchestrator.paths import RunPaths

    job = cancel_run(RunPaths(run.absolute()), make_display(json=json, quiet=False))
    if json:
        print_json({"run": str(run.absolute()), "job": job, "state": "cancelled"})
    else:
        say(f"cancelled job {job}; finished shards are kept, the same orch run command resumes")
