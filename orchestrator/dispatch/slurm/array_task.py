"""What Slurm's variables say about the task that this process is; the only module that reads them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from orchestrator.dispatch.submitter import TaskAttempt


def read_array_task(environment: Mapping[str, str]) -> TaskAttempt | None:
    """Return the array task that `environment` describes; None outside of a Slurm job."""
    index = _number(environment, "SLURM_ARRAY_TASK_ID") or 0
    array = environment.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{index}" if array else environment.get("SLURM_JOB_ID")
    if job is None:
        return None
    return TaskAttempt(
        index=index - (_number(environment, "SLURM_ARRAY_TASK_MIN") or 0),
        count=_number(environment, "SLURM_ARRAY_TASK_COUNT") or 1,
        job=job,
        restarts=_number(environment, "SLURM_RESTART_COUNT") or 0,
        node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        cores=_number(environment, "SLURM_CPUS_ON_NODE"),
    )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else None
