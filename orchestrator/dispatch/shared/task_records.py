"""Records of a cluster's tasks, one file per attempt: node, state, and why it ended."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.submitter import TaskAttempt
from orchestrator.paths import RunPaths, TaskPaths
from orchestrator.system import read_json_object, require_format, write_json

TASK_FORMAT = "orch-task/1"
WORKING_STATES = ("preparing", "predicting")


class TaskRecord:
    """The record of one attempt of a task, replaced whenever its state changes."""

    def __init__(self, paths: TaskPaths, attempt: TaskAttempt) -> None:
        self._path = paths.record
        self._content: dict[str, Any] = {
            "format": TASK_FORMAT,
            "task": paths.task,
            "index": attempt.index,
            "job": attempt.job,
            "restarts": attempt.restarts,
            "node": attempt.node,
            "scratch": str(paths.scratch),
            "process": os.getpid(),
            "started": time.time(),
        }

    def update(self, state: str, **more: Any) -> None:
        """Write the state: "preparing", "predicting", "done", "stopped", "unfit" or "failed"."""
        self._content.update(state=state, since=time.time(), **more)
        write_json(self._path, self._content)


def find_abandoned(records: list[dict[str, Any]], attempt: TaskAttempt) -> list[dict[str, Any]]:
    """Return this task's earlier attempts on this node that were killed: their records have no end."""
    return [
        record
        for record in records
        if attempt.job is not None
        and (record.get("job"), record.get("node")) == (attempt.job, attempt.node)
        and record.get("restarts", 0) < attempt.restarts
        and record.get("state") in WORKING_STATES
        # Its scratch folder is removed: only one that was made for it.
        and Path(record.get("scratch", "")).name.startswith(f"orch-{record['task']}-")
    ]


def read_records(paths: RunPaths, job: str | None) -> list[dict[str, Any]]:
    """Return the records of a job's tasks, and of tasks started by hand, in the order of their starts."""
    records = []
    for file in paths.tasks.glob("*.json"):
        with suppress(OSError, ValueError):
            record = read_json_object(file)
            require_format(record, TASK_FORMAT, file, "use the version that submitted the run")
            if _is_record(record) and _belongs_to(record, job):
                records.append(record)
    return sorted(records, key=lambda record: (record.get("started", 0), record.get("task", "")))


_KINDS: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "index": (int,),
    "job": (str, type(None)),
    "restarts": (int,),
    "node": (str,),
    "scratch": (str,),
    "started": (int, float),
    "state": (str,),
    "notices": (list,),
    "lost_workers": (int,),
    "error": (dict,),
}
_REQUIRED = ("task", "index", "node", "started", "state")


def _is_record(record: dict[str, Any]) -> bool:
    """Return whether the fields of a record have the kinds that they must have: its file may be damaged."""
    if not all(name in record for name in _REQUIRED):
        return False
    if not all(isinstance(record[name], kinds) for name, kinds in _KINDS.items() if name in record):
        return False
    return "error" not in record or isinstance(record["error"].get("message"), str)


def _belongs_to(record: dict[str, Any], job: str | None) -> bool:
    return record.get("job") is None or str(record["job"]).partition("_")[0] == job


def merge_records(paths: RunPaths, job: str | None) -> DispatchResult:
    """Return what the workers of all tasks reported, as if one dispatcher had had them all."""
    records = read_records(paths, job)
    notices = dict.fromkeys(str(notice) for record in records for notice in record.get("notices", ()))
    lost = sum(int(record.get("lost_workers", 0)) for record in records)
    started = min((record["started"] for record in records), default=time.time())
    # Nodes whose clocks differ make the figure wrong by that difference; nothing is decided by it.
    return DispatchResult(tuple(notices), lost, max(0.0, time.time() - started))
