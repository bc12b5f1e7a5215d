"""`orch status`, `orch attach` and `orch cancel`: a run by its directory, from any login shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import JsonOption, print_json, say
from orchestrator.cli.run import QuietOption, report_outcome
from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Its run directory.")]


def status(run: RunArgument, json: JsonOption = False) -> None:
    """How a run stands: done, under way, waiting in the cluster's queue, and why not."""
    from orchestrator.dispatch.attach import status as status_of
    from orchestrator.paths import RunPaths

    found = status_of(RunPaths(run.absolute()))
    if json:
        print_json(found)
        return
    job = f", job {found['job']}" if "job" in found else ""
    say(f"{found['run']}: {found['model']}, {found['state']}{job}")
    say(f"  {found['shards_done']} of {found['shards']} shards done, {found['images']} images")
    for task, state in found.get("tasks", {}).items():
        say(f"  {task}: {state}")
    for ended in found.get("ended_with", ()):
        why = f": {ended['why']}" if ended["why"] else ""
        say(f"  task {ended['task']} on {ended['node']}, {ended['state']}: {ended['message']}{why}")


def attach(run: RunArgument, json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Follow a run on a cluster until it is complete. Ctrl-C leaves it going."""
    from orchestrator.cli.progress import make_display
    from orchestrator.dispatch.attach import attach as attach_to
    from orchestrator.paths import RunPaths

    outcome = attach_to(RunPaths(run.absolute()), make_display(json=json, quiet=quiet))
    report_outcome(outcome, None, json=json, quiet=quiet)
    return EXIT_SOME_FAILED if outcome.failed else EXIT_OK


def cancel(run: RunArgument, json: JsonOption = False) -> None:
    """End a run on a cluster: no job, process or container is left. What is done is kept; orch run resumes."""
    from orchestrator.cli.progress import make_display
    from orchestrator.dispatch.attach import cancel as cancel_run
    from orchestrator.paths import RunPaths

    job = cancel_run(RunPaths(run.absolute()), make_display(json=json, quiet=False))
    if json:
        print_json({"run": str(run.absolute()), "job": job, "state": "cancelled"})
    else:
        say(f"cancelled job {job}; what is done is kept, the same orch run as before resumes")
