"""A task's place, GPUs and cores, from Slurm's variables as sites set them."""

from __future__ import annotations

import pytest

from orchestrator.executors.slurm_commands import QueuedTask, parse_queued
from orchestrator.executors.slurm_node import Place, allotted_cores, allotted_gpus, place
from orchestrator.hardware import Gpu

FOUR = tuple(Gpu(number, f"GPU-{number}", "A100", 40960, "8.0", "550.54") for number in range(4))


def test_the_place_of_an_arrays_task() -> None:
    environment = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3",
                   "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_RESTART_COUNT": "2"}  # fmt: skip
    assert place(environment) == Place(3, 8, "12_3", 2)


def test_outside_slurm_there_is_one_task() -> None:
    assert place({}) == Place(0, 1, None, 0)


@pytest.mark.parametrize(
    ("visible", "seen", "allotted"),
    [
        (None, FOUR, FOUR),
        ("2", FOUR, FOUR[2:3]),
        ("1,3", FOUR, (FOUR[1], FOUR[3])),
        ("0", FOUR[2:3], FOUR[2:3]),
        ("GPU-2", FOUR, FOUR[2:3]),
        ("MIG-7", FOUR, ()),
        ("7", FOUR, ()),
    ],
)
def test_the_gpus_of_a_task_whether_or_not_the_site_hides_the_others(
    visible: str | None, seen: tuple[Gpu, ...], allotted: tuple[Gpu, ...]
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert allotted_gpus(seen, environment) == allotted


@pytest.mark.parametrize(("value", "cores"), [("4", 4), ("64", 16), ("", 16), ("4(x2)", 16)])
def test_a_task_uses_the_cores_it_was_given(value: str, cores: int) -> None:
    assert allotted_cores(16, {"SLURM_CPUS_ON_NODE": value}) == cores


def test_squeues_lines_become_tasks_in_order() -> None:
    text = "10|PENDING||Priority\n2|RUNNING|n1|None\nN/A|PENDING||odd\n\n"
    assert parse_queued(text) == [QueuedTask(2, "RUNNING", "n1", "None"), QueuedTask(10, "PENDING", "", "Priority")]
