"""A task's index and cores, from Slurm's variables as sites set them."""

from __future__ import annotations

import socket

import pytest

from orchestrator.dispatch.slurm.array_task import read_array_task
from orchestrator.dispatch.slurm.commands import parse_tasks
from orchestrator.dispatch.submitter import QueuedTask, TaskAttempt


def test_an_arrays_task() -> None:
    environment = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4",
                   "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_RESTART_COUNT": "2",
                   "SLURMD_NODENAME": "n1", "SLURM_CPUS_ON_NODE": "4"}  # fmt: skip
    assert read_array_task(environment) == TaskAttempt(3, 8, "12_4", 2, "n1", 4)


def test_a_job_that_is_no_array_has_one_task() -> None:
    attempt = read_array_task({"SLURM_JOB_ID": "15"})
    assert attempt == TaskAttempt(0, 1, "15", 0, socket.gethostname(), None)


def test_outside_of_a_job_there_is_no_task() -> None:
    assert read_array_task({"SLURM_ARRAY_TASK_ID": "4"}) is None


@pytest.mark.parametrize(("value", "cores"), [("4", 4), ("", None), ("4(x2)", None)])
def test_a_task_knows_the_cores_it_was_given(value: str, cores: int | None) -> None:
    attempt = read_array_task({"SLURM_JOB_ID": "15", "SLURM_CPUS_ON_NODE": value})
    assert attempt is not None
    assert attempt.cores == cores


def test_squeues_lines_become_tasks_in_order() -> None:
    text = "10|PENDING||Priority\n2|RUNNING|n1|None\nN/A|PENDING||odd\n\n"
    assert parse_tasks(text) == [QueuedTask(2, "RUNNING", "n1", "None"), QueuedTask(10, "PENDING", "", "Priority")]
