"""What a task finds on its node: its place in the array, its GPUs, its cores; read from Slurm's variables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.hardware import Gpu


@dataclass(frozen=True)
class Place:
    """One task of an array: `job` as Slurm names it, "12_3", or None outside Slurm."""

    index: int
    count: int
    job: str | None
    restarts: int


def place(environment: Mapping[str, str]) -> Place:
    """The task's place; outside Slurm, the only task there is."""
    index = _number(environment, "SLURM_ARRAY_TASK_ID", 0)
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    array = environment.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{index}" if array else environment.get("SLURM_JOB_ID")
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT", 1)
    return Place(index - first, max(1, count), job, _number(environment, "SLURM_RESTART_COUNT", 0))


def allotted_gpus(present: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those of the node's GPUs that are the task's: all that are seen where the site hides the others."""
    numbers = _numbers(environment.get("CUDA_VISIBLE_DEVICES"))
    if numbers is None or len(present) <= len(numbers):
        return tuple(present)
    return tuple(present[number] for number in numbers if number < len(present))


def task_devices(kind: str, runtime: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The devices of a task's workers, as WorkerSpec.device names them: one for each GPU it was given.

    An engine stands outside the task and counts all of the node's GPUs; a process inside counts those it is shown.
    """
    if kind == "cpu":
        return ("cpu",)
    names = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES")
    for name in names if runtime == "docker" else names[2:]:
        numbers = _numbers(environment.get(name))
        if numbers:
            return tuple(f"cuda:{number}" for number in numbers)
    return ("cuda",)


def allotted_cores(here: int, environment: Mapping[str, str]) -> int:
    """The cores the task may use, also where the site does not bind it to them."""
    return max(1, min(here, _number(environment, "SLURM_CPUS_ON_NODE", here)))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else default


def _numbers(value: str | None) -> list[int] | None:
    """ "0,2" or "0-2"; None for names that are no numbers, and for nothing."""
    if not value:
        return None
    found: list[int] = []
    for part in value.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            return None
        found += range(int(first), int(last or first) + 1)
    return found
