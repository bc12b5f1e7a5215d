"""Collect a shared run once: by the first task that sees all shards on disk."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.dispatch.executors import find_submission, get_submitter
from orchestrator.dispatch.outcome import finish
from orchestrator.dispatch.shared.claims import Claims
from orchestrator.dispatch.shared.task_records import merge_records
from orchestrator.errors import MachineError
from orchestrator.paths import RunPaths
from orchestrator.plan import Plan
from orchestrator.system import Display

COLLECT_CLAIM = "collect"


def collect_once(paths: RunPaths, plan: Plan, claims: Claims, display: Display) -> bool:
    """Collect, unless the run is collected or another task is collecting. Return whether it was collected here."""
    if not (claims.take(COLLECT_CLAIM) or claims.take_over(COLLECT_CLAIM)):
        return False
    collected = not paths.summary.exists()
    if collected:
        display.say("all shards are on disk: collecting")
        submission = find_submission(paths)
        job = None if submission is None else submission.job
        finish(plan, RunPaths(paths.root), merge_records(paths, job))
        if submission is not None:
            with suppress(MachineError):
                get_submitter(submission).cancel_waiting(submission.job)  # they would find nothing to do
    claims.release(COLLECT_CLAIM)
    return collected
