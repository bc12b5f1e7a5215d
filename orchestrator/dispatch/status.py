"""`orch status`: the state of a run, from its directory and, where it was submitted, its cluster."""

from __future__ import annotations

from typing import Any

from orchestrator.dispatch.executors import find_submission, get_submitter
from orchestrator.dispatch.shared.follow import require_run
from orchestrator.dispatch.shared.progress import EventTail, RunProgress, describe_tasks, list_shards
from orchestrator.dispatch.shared.task_records import read_records
from orchestrator.dispatch.submitter import QueuedTask, Submission
from orchestrator.paths import RunPaths
from orchestrator.system import hold_lock


def read_status(paths: RunPaths) -> dict[str, Any]:
    """Return a run's state as `orch status --json` prints it. Asks the cluster at most once. Raises UsageError."""
    document, submission = require_run(paths), find_submission(paths)
    shards = int(document["shards"])
    status: dict[str, Any] = {
        "run": str(paths.root),
        "model": document["resolved"]["model"],
        "variant": document["request"].get("variant"),
        "images": document["resolved"]["inputs"]["count"],
        "shards": shards,
        "shards_done": shards if paths.summary.exists() else len(list_shards(paths, shards)),
        "executor": "local" if submission is None else submission.executor,
    }
    if submission is None:
        return {**status, "state": read_local_state(paths)}
    tasks = get_submitter(submission).list_tasks(submission.job)
    return {**status, "state": _cluster_state(paths, tasks), **_describe_job(paths, submission, tasks or [])}


def read_local_state(paths: RunPaths) -> str:
    """Return the state of a run of this machine: "complete", "running" or "stopped"."""
    if paths.summary.exists():
        return "complete"
    return "running" if _is_locked(paths) else "stopped"


def _cluster_state(paths: RunPaths, tasks: list[QueuedTask] | None) -> str:
    if paths.summary.exists():
        return "complete"
    if tasks is None:
        return "unknown"
    if tasks:
        return "running" if any(task.is_running for task in tasks) else "waiting"
    return "cancelled" if paths.cancelled.exists() else "stopped"


def _describe_job(paths: RunPaths, submission: Submission, tasks: list[QueuedTask]) -> dict[str, Any]:
    records = read_records(paths, submission.job)
    progress = RunProgress(())
    progress.apply_all(EventTail(paths.task_events))
    return {
        "job": submission.job,
        "tasks": describe_tasks(records, tasks, progress.statuses),
        "ended_with": [
            {"task": record["index"], "node": record["node"], "state": record["state"], **record["error"]}
            for record in records
            if "error" in record
        ],
    }


def _is_locked(paths: RunPaths) -> bool:
    """Return whether an orch process of this machine writes to the run directory."""
    if not paths.lock.exists():
        return False
    with hold_lock(paths.lock, wait=False) as acquired:
        return not acquired
