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
    """Those of the node's GPUs that are the task's: all that are seen where the site hides the others.

    Sites that hide them count anew from 0, so numbers say nothing there; where more are seen, they are the node's.
    """
    visible = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not visible or len(present) <= len(visible):
        return tuple(present)
    return tuple(gpu for name in visible for gpu in _called(name, present))


def allotted_cores(here: int, environment: Mapping[str, str]) -> int:
    """The cores the task may use, also where the site does not bind it to them."""
    return max(1, min(here, _number(environment, "SLURM_CPUS_ON_NODE", here)))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else default


def _called(name: str, present: Sequence[Gpu]) -> Sequence[Gpu]:
    """The GPU of that number, or whose UUID begins so; none where there is none."""
    if name.isdigit():
        return present[int(name) : int(name) + 1]
    return [gpu for gpu in present if gpu.uuid.startswith(name)][:1]
