"""Slurm's own commands: submit a job, list its tasks, requeue and end them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from orchestrator.dispatch.submitter import QueuedTask
from orchestrator.errors import MachineError

COMMANDS = ("sbatch", "squeue", "scancel")
_TIMEOUT_SECONDS = 60
_UNKNOWN_JOB = "Invalid job id"


def require_slurm() -> None:
    """Raise MachineError unless Slurm's commands are on this machine."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise MachineError(
            "Slurm is not installed on this machine",
            why=f"{', '.join(missing)} not found",
            hint="type the command on the cluster's login node, or use --executor local",
        )


def submit(script: Path) -> str:
    """Submit a job script and return the job's number. Raises MachineError if Slurm refuses it."""
    done = _run(["sbatch", "--parsable", str(script)])
    if done.returncode != 0:
        why = done.stderr.strip().removeprefix("sbatch: error: ")
        hint = "--slurm partition=…, account=…, qos=…, time=…, gres=… as the site requires; see sinfo, docs/clusters.md"
        raise MachineError("Slurm refuses the job", why=why, log=script, hint=hint)
    return done.stdout.strip().partition(";")[0]


def list_tasks(job: str) -> list[QueuedTask] | None:
    """Return the tasks of an array that are not over, by index; None while Slurm does not answer."""
    try:
        done = _run(["squeue", "--noheader", "--array", "--jobs", job, "--format", "%K|%T|%N|%r"])
    except MachineError:
        return None
    if done.returncode != 0:
        return [] if _UNKNOWN_JOB in done.stderr else None
    return parse_tasks(done.stdout)


def parse_tasks(text: str) -> list[QueuedTask]:
    """Return the tasks in squeue's lines of index, state, node and reason; other lines are skipped."""
    tasks = []
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) == 4 and parts[0].isdigit():
            tasks.append(QueuedTask(int(parts[0]), parts[1], parts[2], parts[3]))
    return sorted(tasks, key=lambda task: task.index)


def read_state(job: str) -> str | None:
    """Return the state of a job or of one task of an array; None if Slurm does not say."""
    try:
        done = _run(["squeue", "--noheader", "--jobs", job, "--format", "%T"])
    except MachineError:
        return None
    return done.stdout.strip() or None


def requeue(job: str) -> str | None:
    """Have a running job start again later. Return why not, where Slurm refuses."""
    try:
        done = _run(["scontrol", "requeue", job])
    except MachineError as error:
        return error.why
    return None if done.returncode == 0 else done.stderr.strip()


def send_sigterm(job: str) -> None:
    """Send SIGTERM to the running tasks of an array: they finish the images they work on."""
    _run(["scancel", "--batch", "--signal=TERM", job])


def end_job(job: str, *, pending: bool = False) -> None:
    """End all tasks of a job, or only those that have not started. Raises MachineError."""
    _run(["scancel", *(["--state=PENDING"] if pending else []), job])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError("Slurm does not answer", why=str(error), hint="sinfo") from error
