"""Progress of a run on a cluster, computed from the events and shards in its directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.dispatch.shared.task_records import WORKING_STATES
from orchestrator.dispatch.submitter import QueuedTask
from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.paths import RunPaths
from orchestrator.system import JsonLinesFile


class EventTail:
    """Reads the lines that were added to all tasks' event files since the last call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, JsonLinesFile] = {}

    def read_new(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (task, event) for each complete line."""
        for file in sorted(self._folder.glob("*.jsonl")):
            for event in self._files.setdefault(file, JsonLinesFile(file)).read_new():
                yield file.stem, event


class RunProgress:
    """Finished images of a run, folded from all tasks' events. A shard that was predicted twice counts once."""

    def __init__(self, images_of: Sequence[int], finished: Iterable[int] = ()) -> None:
        """`images_of`: number of images of each shard; `finished`: shards that are on disk already."""
        self._images_of, self._on_disk = images_of, frozenset(finished)
        self._workers: dict[tuple[str, str], WorkerState] = {}
        self._newest: dict[str, WorkerState] = {}
        """The worker of each task that sent the last event."""

    @property
    def finished(self) -> set[int]:
        """Finished shards."""
        shards = set(self._on_disk).union(*(state.finished for state in self._workers.values()))
        return {shard for shard in shards if 0 <= shard < len(self._images_of)}

    @property
    def images(self) -> int:
        """Finished images, including those of unfinished shards."""
        finished = self.finished
        under_way: dict[int, int] = {}
        for state in self._workers.values():
            for shard, count in state.under_way.items():
                if shard not in finished:
                    under_way[shard] = max(count, under_way.get(shard, 0))
        return sum(self._images_of[shard] for shard in finished) + sum(under_way.values())

    @property
    def failed(self) -> int:
        """Images that could not be predicted."""
        return sum(state.failed_images for state in self._workers.values())

    @property
    def statuses(self) -> dict[str, str]:
        """What each task's workers do, by the task's name."""
        return {task: state.status for task, state in self._newest.items() if not state.has_exited}

    def apply(self, task: str, event: Mapping[str, Any]) -> None:
        """Update the progress by one event of one of a task's workers."""
        state = self._workers.setdefault((task, str(event.get("worker"))), WorkerState())
        state.apply(event)
        self._newest[task] = state

    def apply_all(self, tail: EventTail) -> None:
        """Update the progress by all new events."""
        for task, event in tail.read_new():
            self.apply(task, event)


def list_shards(paths: RunPaths, shards: int) -> set[int]:
    """Return the numbers of the shards that are on disk, of `shards` altogether."""
    names = set(os.listdir(paths.shards)) if paths.shards.is_dir() else set[str]()
    return {number for number in range(shards) if paths.shard(number).name in names}


def shard_sizes(images: int, shard_size: int) -> list[int]:
    """Return the number of images of each shard."""
    return [min(shard_size, images - first) for first in range(0, images, shard_size)]


def describe_tasks(
    records: Sequence[Mapping[str, Any]], tasks: Sequence[QueuedTask], statuses: Mapping[str, str]
) -> dict[str, str]:
    """Return a few words on each queued task: the cluster's state, and what its newest attempt does.

    `statuses`: what the workers do, by the attempt's name.
    """
    newest = {record["index"]: record for record in records}
    descriptions: dict[str, str] = {}
    for task in tasks:
        record = newest.get(task.index)
        if task.is_running and record is not None and record.get("state") in WORKING_STATES:
            state = statuses.get(str(record["task"])) or str(record["state"])
            descriptions[f"task {task.index}"] = f"{state}, on {task.node}"
        else:
            has_reason = task.state == "PENDING" and task.reason not in ("None", "")
            reason = f" ({task.reason})" if has_reason else ""
            descriptions[f"task {task.index}"] = f"{task.state.lower()}{reason}"
    return descriptions
