"""What Slurm's variables tell a task: its place in the array and its cores. Its GPUs, orchestrator.hardware sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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


def allotted_cores(here: int, environment: Mapping[str, str]) -> int:
    """The cores the task may use, also where the site does not bind it to them."""
    return max(1, min(here, _number(environment, "SLURM_CPUS_ON_NODE", here)))


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else default
