"""`orch attach` and `orch cancel`: follow or end a run on a cluster, wherever its directory is visible."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic, sleep, time_ns
from typing import Any

from orchestrator.dispatch.executors import find_submission, get_submitter
from orchestrator.dispatch.outcome import Outcome, read_outcome
from orchestrator.dispatch.shared.claims import LEASE_SECONDS, Claims
from orchestrator.dispatch.shared.collection import collect_once
from orchestrator.dispatch.shared.progress import EventTail, RunProgress, describe_tasks, list_shards, shard_sizes
from orchestrator.dispatch.shared.task_records import WORKING_STATES, read_records
from orchestrator.dispatch.shared.work_file import read_work_file
from orchestrator.dispatch.submitter import QueuedTask, Submission, Submitter
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError, UsageError
from orchestrator.paths import RunPaths
from orchestrator.plan import read_run_document
from orchestrator.system import Display, call_on_signal

POLL_SECONDS = 2.0
QUEUE_POLL_SECONDS = 10.0
MISSES_UNTIL_GONE = 2
"""Tasks are gone once the cluster lists none this many times: after a requeue it may list none for a moment."""
RESUME_HINT = "the same orch run command submits the missing shards"


@dataclass(frozen=True)
class _Followed:
    """A submitted run, and the cluster that it was handed to."""

    paths: RunPaths
    images: int
    shard_size: int
    shards: int
    submission: Submission
    submitter: Submitter

    def missing(self) -> int:
        """Return how many shards are not on disk."""
        return self.shards - len(list_shards(self.paths, self.shards))


def require_run(paths: RunPaths) -> dict[str, Any]:
    """Return the content of run.json. Raises UsageError, RunError."""
    try:
        return read_run_document(paths)
    except FileNotFoundError:
        raise UsageError(f"{paths.root} is not a run directory", why="it has no run.json") from None


def follow_run(paths: RunPaths, display: Display) -> Outcome:
    """Show a run's progress until it is complete. Ctrl-C ends only the display; the run continues.

    Raises RunError, MachineError or Interrupted when its tasks end before it is complete.
    """
    document = require_run(paths)
    if paths.summary.exists():
        return _read_outcome(paths)
    submission = _require_submission(paths, "the same orch run command resumes it")
    run = _Followed(
        paths,
        int(document["resolved"]["inputs"]["count"]),
        int(document["shard_size"]),
        int(document["shards"]),
        submission,
        get_submitter(submission),
    )
    run.submitter.require_commands()
    try:
        _follow(run, display)
    except Interrupted:
        raise Interrupted(
            f"no longer attached; the run continues as job {submission.job}",
            hint=f"orch attach {paths.root}, or orch cancel {paths.root}",
        ) from None
    if not paths.summary.exists():
        _collect_here(run, display)
    return _read_outcome(paths)


def cancel_run(paths: RunPaths, display: Display) -> str:
    """End a run's tasks and return the job's number. Raises UsageError, MachineError."""
    require_run(paths)
    submission = _require_submission(paths, "to stop a run on this machine, press Ctrl-C in its terminal")
    get_submitter(submission).cancel(paths, submission.job, display)
    return submission.job


def _require_submission(paths: RunPaths, hint: str) -> Submission:
    submission = find_submission(paths)
    if submission is None:
        raise UsageError(f"{paths.root} was not submitted to a cluster", hint=hint)
    return submission


def _read_outcome(paths: RunPaths) -> Outcome:
    outcome = read_outcome(paths)
    if outcome is None:
        raise RunError(
            f"{paths.summary} is damaged, or not of {paths.predictions.name}",
            hint="the same orch run command collects the shards again",
        )
    return outcome


def _follow(run: _Followed, display: Display) -> None:
    """Show progress until the run is collected or its tasks are gone. Raises Interrupted on Ctrl-C."""
    paths = run.paths
    progress = RunProgress(shard_sizes(run.images, run.shard_size), list_shards(paths, run.shards))
    tail = EventTail(paths.task_events)
    tasks: list[QueuedTask] = []
    records: list[dict[str, Any]] = []
    next_poll, misses = 0.0, 0
    progress.apply_all(tail)
    stop = threading.Event()
    with display.images(run.images, progress.images), call_on_signal(stop.set):
        while not paths.summary.exists() and misses < MISSES_UNTIL_GONE:
            if monotonic() >= next_poll:
                listed = run.submitter.list_tasks(run.submission.job)
                tasks = tasks if listed is None else listed
                misses = misses + 1 if listed == [] else 0
                records = read_records(paths, run.submission.job)
                next_poll = monotonic() + (QUEUE_POLL_SECONDS if tasks else POLL_SECONDS)
            display.progress(progress.images, progress.failed, describe_tasks(records, tasks, progress.statuses))
            if stop.wait(POLL_SECONDS):
                raise Interrupted("stopped")
            progress.apply_all(tail)


def _collect_here(run: _Followed, display: Display) -> None:
    """Collect a run whose tasks are gone. Raises why they ended if shards are missing."""
    missing = run.missing()
    if missing:
        raise _explain_missing(run, missing)
    work = read_work_file(run.paths)
    plan = work.restore_plan()
    with Claims(run.paths.claims, f"attach-{time_ns()}", LEASE_SECONDS) as claims:
        while not run.paths.summary.exists() and not collect_once(run.paths, plan, claims, display):
            sleep(POLL_SECONDS)


def _explain_missing(run: _Followed, missing: int) -> OrchError:
    """Return the error that says why the tasks ended before all shards were done."""
    if run.paths.cancelled.exists():
        message = f"the run was cancelled; {missing} shards are missing, finished ones are kept"
        return Interrupted(message, hint=RESUME_HINT)
    job, logs = run.submission.job, run.paths.logs
    newest = {record["index"]: record for record in read_records(run.paths, job)}
    failures = {index: why for index, record in sorted(newest.items()) if (why := _describe_failure(record))}
    is_unfit = bool(newest) and all(record.get("state") == "unfit" for record in newest.values())
    return (MachineError if is_unfit else RunError)(
        f"all tasks have ended and {missing} shards are missing",
        why="\n".join(f"task {index}: {why}" for index, why in failures.items()) or run.submitter.explain_end(job),
        log=logs / f"task-{next(iter(failures))}.log" if failures else logs,
        hint=RESUME_HINT,
    )


def _describe_failure(record: dict[str, Any]) -> str | None:
    """Return why a task ended early, as far as it recorded it; None if it ended well."""
    if "error" in record:
        return f"{record['error']['message']}: {record['error'].get('why') or ''}".rstrip(": ")
    if record.get("state") in WORKING_STATES:
        return f"ended without giving a reason on {record.get('node')}, {record['state']}"
    return None
