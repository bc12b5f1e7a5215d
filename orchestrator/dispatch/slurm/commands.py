"""Slurm's own commands: handing in a job, seeing what is left of it, ending it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import MachineError

COMMANDS = ("sbatch", "squeue", "scancel")
_SECONDS = 60
_GONE = "Invalid job id"


@dataclass(frozen=True)
class QueuedTask:
    """A task of an array as squeue lists it."""

    index: int
    state: str
    node: str
    reason: str


def require_slurm() -> None:
    """Raises MachineError where Slurm's commands are not."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise MachineError(
            "there is no Slurm on this machine",
            why=f"{', '.join(missing)} not found",
            hint="type the command on the cluster's login node, or use --executor local",
        )


def submit(script: Path) -> str:
    """Hand in a job script; the job's number. Raises MachineError where Slurm refuses."""
    done = _run(["sbatch", "--parsable", str(script)])
    if done.returncode != 0:
        why = done.stderr.strip().removeprefix("sbatch: error: ")
        hint = "--partition, --account, --qos, --time, --gres as the site wants them; see sinfo, and docs/clusters.md"
        raise MachineError("Slurm refuses the job", why=why, log=script, hint=hint)
    return done.stdout.strip().partition(";")[0]


def queued(job: str) -> list[QueuedTask] | None:
    """The tasks of an array that are not over, in order; None when Slurm does not answer at the moment."""
    try:
        done = _run(["squeue", "--noheader", "--array", "--jobs", job, "--format", "%K|%T|%N|%r"])
    except MachineError:
        return None
    if done.returncode != 0:
        return [] if _GONE in done.stderr else None
    return parse_queued(done.stdout)


def parse_queued(text: str) -> list[QueuedTask]:
    """Tasks from squeue's lines of index, state, node, reason."""
    found = []
    for line in text.splitlines():
        parts = line.strip().split("|")
        if len(parts) == 4 and parts[0].isdigit():
            found.append(QueuedTask(int(parts[0]), parts[1], parts[2], parts[3]))
    return sorted(found, key=lambda task: task.index)


def state_of(job: str) -> str | None:
    """The state of one job or task of an array; None when it cannot be had."""
    try:
        done = _run(["squeue", "--noheader", "--jobs", job, "--format", "%T"])
    except MachineError:
        return None
    return done.stdout.strip() or None


def requeue(job: str) -> str | None:
    """Have a running job start again later; why not, where Slurm refuses."""
    try:
        done = _run(["scontrol", "requeue", job])
    except MachineError as error:
        return error.why
    return None if done.returncode == 0 else done.stderr.strip()


def tell_to_stop(job: str) -> None:
    """SIGTERM for the running tasks of an array: they finish the images at hand."""
    _run(["scancel", "--batch", "--signal=TERM", job])


def end(job: str, *, pending: bool = False) -> None:
    """End a job with all its tasks, or those that wait. Raises MachineError."""
    _run(["scancel", *(["--state=PENDING"] if pending else []), job])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError("Slurm does not answer", why=str(error), hint="sinfo") from error
