"""Following a run on a cluster from any login shell: its progress, its state, its end; and cancelling it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any

from orchestrator.dispatch.outcome import Outcome
from orchestrator.dispatch.shared.claims import LEASE_SECONDS, Claims
from orchestrator.dispatch.shared.follow import EventTail, Progress, shard_sizes, shards_on_disk, task_states
from orchestrator.dispatch.shared.task_records import read_records
from orchestrator.dispatch.shared.work_file import read_handover
from orchestrator.dispatch.slurm.commands import QueuedTask, end, queued, require_slurm, tell_to_stop
from orchestrator.dispatch.slurm.executor import recorded_job, submission
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError, UsageError
from orchestrator.paths import RunPaths
from orchestrator.system.display import Display
from orchestrator.system.locks import hold_lock
from orchestrator.system.signals import call_on_signal

LOOK_SECONDS = 2.0
ASK_SLURM_SECONDS = 10.0
GONE_LOOKS = 2
"""A run has no tasks any more when Slurm says so this many times: right after a requeue it may know of none."""
STOP_SECONDS = 45.0


def attach(paths: RunPaths, display: Display) -> Outcome:
    """Show a run's progress until it is complete. Ctrl-C leaves the run going.

    Raises RunError, MachineError or Interrupted when its tasks are gone before it is complete.
    """
    run, job = _run_document(paths), recorded_job(paths)
    if paths.summary.exists():
        return _outcome(paths)
    if job is None:
        raise UsageError(f"{paths.root} is no run on a cluster", hint="the same orch run as before resumes it")
    require_slurm()
    try:
        _follow(paths, run, job, display)
    except Interrupted:
        raise Interrupted(
            f"no longer attached; the run goes on as job {job}",
            hint=f"orch attach {paths.root}, or orch cancel {paths.root}",
        ) from None
    if not paths.summary.exists():
        _collect_here(paths, run, display)
    return _outcome(paths)


def _follow(paths: RunPaths, run: dict[str, Any], job: str, display: Display) -> None:
    """Until the run is collected or nobody is left to carry it out."""
    images, shards = int(run["resolved"]["inputs"]["count"]), int(run["shards"])
    progress = Progress(shard_sizes(images, int(run["shard_size"])), shards_on_disk(paths, shards))
    tail = EventTail(paths.task_events)
    waiting: list[QueuedTask] = []
    records: list[dict[str, Any]] = []
    ask_at, gone = 0.0, 0
    for task, event in tail.new():
        progress.take(task, event)
    left = threading.Event()
    with display.images(images, progress.images), call_on_signal(left.set):
        while not paths.summary.exists() and gone < GONE_LOOKS:
            if monotonic() >= ask_at:
                answer = queued(job)
                waiting = waiting if answer is None else answer
                gone = gone + 1 if answer == [] else 0
                records = read_records(paths, job)
                ask_at = monotonic() + (ASK_SLURM_SECONDS if waiting else LOOK_SECONDS)
            states = task_states(records, waiting, progress.states)
            display.progress(progress.images, progress.failed, states)
            if left.wait(LOOK_SECONDS):
                raise Interrupted("left")
            for task, event in tail.new():
                progress.take(task, event)


def _collect_here(paths: RunPaths, run: dict[str, Any], display: Display) -> None:
    """The tasks are gone: collect if they had done all, else say why they are gone."""
    from orchestrator.dispatch.shared.task import collect_once

    missing = int(run["shards"]) - len(shards_on_disk(paths, int(run["shards"])))
    if missing:
        raise why_incomplete(paths, missing)
    handover = read_handover(paths)
    plan = handover.planned(handover.recorded_prepared())
    with Claims(paths.claims, f"attach-{time_ns()}", LEASE_SECONDS) as claims:
        while not paths.summary.exists() and not collect_once(paths, plan, claims, display):
            sleep(LOOK_SECONDS)


def why_incomplete(paths: RunPaths, missing: int) -> OrchError:
    """What ended the tasks before all shards were done, as the error that it is."""
    resume = "the same orch run as before submits what is missing"
    if paths.cancelled.exists():
        return Interrupted(f"the run was cancelled; {missing} shards are missing, what is done is kept", hint=resume)
    newest = {record["index"]: record for record in read_records(paths, recorded_job(paths))}
    ends = {index: end for index, one in sorted(newest.items()) if (end := _bad_end(one)) is not None}
    unfit = bool(newest) and all(record.get("state") == "unfit" for record in newest.values())
    return (MachineError if unfit else RunError)(
        f"all tasks are over and {missing} shards are missing",
        why="\n".join(f"task {index}: {end}" for index, end in ends.items()) or "Slurm ended them; sacct may say why",
        log=paths.logs / f"task-{next(iter(ends))}.log" if ends else paths.logs,
        hint=resume,
    )


def _bad_end(record: dict[str, Any]) -> str | None:
    """Why a task ended before all was done, as far as it could say; None if it ended well."""
    if "error" in record:
        return f"{record['error']['message']}: {record['error'].get('why') or ''}".rstrip(": ")
    if record.get("state") in ("preparing", "predicting"):
        return f"ended without a word on {record.get('node')}, {record['state']}"
    return None


def status(paths: RunPaths) -> dict[str, Any]:
    """How a run stands, on a cluster or on this machine. Asks Slurm once, where the run was handed to it."""
    run, handed = _run_document(paths), submission(paths)
    shards = int(run["shards"])
    done = shards if paths.summary.exists() else len(shards_on_disk(paths, shards))
    found: dict[str, Any] = {
        "run": str(paths.root),
        "model": run["resolved"]["model"],
        "variant": run["request"]["variant"],
        "images": run["resolved"]["inputs"]["count"],
        "shards": shards,
        "shards_done": done,
        "executor": "local" if handed is None else "slurm",
    }
    waiting = None if handed is None else queued(str(handed["job"]))
    if paths.summary.exists():
        state = "complete"
    elif handed is None:
        state = "running" if _is_held(paths) else "stopped"
    elif waiting is None:
        state = "unknown"
    elif waiting:
        state = "running" if any(task.state == "RUNNING" for task in waiting) else "waiting"
    else:
        state = "cancelled" if paths.cancelled.exists() else "stopped"
    found["state"] = state
    if handed is not None:
        records = read_records(paths, str(handed["job"]))
        found |= {"job": handed["job"], "tasks": task_states(records, waiting or [], _at_work(paths))}
        found["ended_with"] = [
            {"task": record["index"], "node": record["node"], "state": record["state"], **record["error"]}
            for record in records
            if "error" in record
        ]
    return found


def cancel(paths: RunPaths, display: Display) -> str:
    """End a run's tasks: first so that they finish the images at hand, then for good. The job's number.

    Raises UsageError, MachineError.
    """
    _run_document(paths)
    job = recorded_job(paths)
    if job is None:
        raise UsageError(
            f"{paths.root} is no run on a cluster", hint="Ctrl-C where it runs stops a run of this machine"
        )
    require_slurm()
    paths.cancelled.touch()
    end(job, pending=True)
    tell_to_stop(job)
    display.say("stopping after the images at hand")
    if not _is_over(job, STOP_SECONDS):
        end(job)
        if not _is_over(job, STOP_SECONDS):
            raise MachineError(f"job {job} is still there", why="Slurm has not ended it yet", hint=f"squeue -j {job}")
    return job


def _is_over(job: str, seconds: float) -> bool:
    until = monotonic() + seconds
    while queued(job) != []:
        if monotonic() > until:
            return False
        sleep(1)
    return True


def _run_document(paths: RunPaths) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(paths.run_json.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = "it has no run.json" if isinstance(error, FileNotFoundError) else str(error)
        raise UsageError(f"{paths.root} is no run directory", why=why) from None
    return document


def _outcome(paths: RunPaths) -> Outcome:
    return Outcome(paths, json.loads(paths.summary.read_text(encoding="utf-8")))


def _at_work(paths: RunPaths) -> dict[str, str]:
    progress = Progress(())
    for task, event in EventTail(paths.task_events).new():
        progress.take(task, event)
    return progress.states


def _is_held(paths: RunPaths) -> bool:
    """Whether an orch process of this machine writes to the run directory."""
    if not Path(paths.lock).exists():
        return False
    with hold_lock(paths.lock, wait=False) as ours:
        return not ours
