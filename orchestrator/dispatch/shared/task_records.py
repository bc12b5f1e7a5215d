"""What the tasks of a cluster's job say of themselves in the run directory: where, how far, why they ended."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.slurm.array_task import Place
from orchestrator.paths import RunPaths, TaskPaths
from orchestrator.system.files import write_json


class TaskRecord:
    """The record of one start of a task, replaced whenever its state changes."""

    def __init__(self, paths: TaskPaths, name: str, here: Place) -> None:
        self._path = paths.record
        self._content: dict[str, Any] = {
            "task": name,
            "index": here.index,
            "job": here.job,
            "restarts": here.restarts,
            "node": node_name(),
            "scratch": str(paths.scratch),
            "process": os.getpid(),
            "started": time.time(),
        }

    def now(self, state: str, **more: Any) -> None:
        """The task is "preparing", "predicting", "done", "stopped", "unfit" or "failed"."""
        self._content.update(state=state, since=time.time(), **more)
        write_json(self._path, self._content)


def node_name() -> str:
    """The node as Slurm calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def left_behind(records: list[dict[str, Any]], here: Place) -> list[dict[str, Any]]:
    """Earlier starts of this task on this node that never said they ended: Slurm takes them for dead."""
    return [
        record
        for record in records
        if here.job is not None
        and (record.get("job"), record.get("node")) == (here.job, node_name())
        and record.get("restarts", 0) < here.restarts
        and record.get("state") in ("preparing", "predicting")
    ]


def read_records(paths: RunPaths, job: str | None) -> list[dict[str, Any]]:
    """The records of a job's tasks, in the order in which they were started."""
    found = []
    for file in paths.tasks.glob("*.json"):
        with suppress(OSError, ValueError):
            record = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(record, dict) and _is_of(record, job):
                found.append(record)
    return sorted(found, key=lambda record: (record.get("started", 0), record.get("task", "")))


def _is_of(record: dict[str, Any], job: str | None) -> bool:
    """Whether a task belongs to the job. One that was started by hand belongs to any."""
    return record.get("job") is None or str(record["job"]).partition("_")[0] == job


def dispatched_by_all(paths: RunPaths, job: str | None) -> DispatchResult:
    """What all tasks' workers said in the end, as if one dispatcher had had them."""
    records = read_records(paths, job)
    notices = dict.fromkeys(notice for record in records for notice in record.get("notices", ()))
    lost = sum(int(record.get("lost_workers", 0)) for record in records)
    started = min((record["started"] for record in records), default=time.time())
    return DispatchResult(tuple(notices), lost, time.time() - started)
