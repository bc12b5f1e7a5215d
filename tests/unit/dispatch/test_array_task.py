"""A task's place and cores, from Slurm's variables as sites set them."""

from __future__ import annotations

import pytest

from orchestrator.dispatch.slurm.array_task import Place, allotted_cores, place
from orchestrator.dispatch.slurm.commands import QueuedTask, parse_queued


def test_the_place_of_an_arrays_task() -> None:
    environment = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3",
                   "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_RESTART_COUNT": "2"}  # fmt: skip
    assert place(environment) == Place(3, 8, "12_3", 2)


def test_outside_slurm_there_is_one_task() -> None:
    assert place({}) == Place(0, 1, None, 0)


@pytest.mark.parametrize(("value", "cores"), [("4", 4), ("64", 16), ("", 16), ("4(x2)", 16)])
def test_a_task_uses_the_cores_it_was_given(value: str, cores: int) -> None:
    assert allotted_cores(16, {"SLURM_CPUS_ON_NODE": value}) == cores


def test_squeues_lines_become_tasks_in_order() -> None:
    text = "10|PENDING||Priority\n2|RUNNING|n1|None\nN/A|PENDING||odd\n\n"
    assert parse_queued(text) == [QueuedTask(2, "RUNNING", "n1", "None"), QueuedTask(10, "PENDING", "", "Priority")]
