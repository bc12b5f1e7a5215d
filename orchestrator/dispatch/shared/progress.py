"""Progress of a run on a cluster, computed from the events and shards in its directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.dispatch.shared.submitter import QueuedTask
from orchestrator.dispatch.shared.task_records import WORKING_STATES
from orchestrator.paths import RunPaths


class EventTail:
    """New lines of all tasks' event files since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield (task, event) of whole lines only."""
        for file in sorted(self._folder.glob("*.jsonl")):
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                text = stream.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[file] = self._read.get(file, 0) + len(whole)
            for line in whole.splitlines():
                with suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield file.stem, event


@dataclass
class RunProgress:
    """Finished images and shards, according to all tasks' events. A shard finished twice counts once."""

    images_of: Sequence[int]
    """Number of images of each shard."""
    done: set[int] = field(default_factory=set)
    failed: int = 0
    states: dict[str, str] = field(default_factory=dict)
    """What each task's workers do, by the task's name."""
    _under_way: dict[str, dict[int, int]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images finished, including those of unfinished shards."""
        under_way: dict[int, int] = {}
        for shards in self._under_way.values():
            for shard, count in shards.items():
                if shard not in self.done:
                    under_way[shard] = max(count, under_way.get(shard, 0))
        return sum(self.images_of[shard] for shard in self.done) + sum(under_way.values())

    def apply_all(self, tail: EventTail) -> None:
        """Take note of all new events."""
        for task, event in tail.new():
            self.apply(task, event)

    def apply(self, task: str, event: Mapping[str, Any]) -> None:
        """Take note of an event of one of a task's workers."""
        kind, shard = event.get("event"), event.get("shard")
        worker = f"{task} {event.get('worker')}"
        if kind in ("loading", "ready"):
            self.states[task] = kind
        elif kind == "shard_started" and isinstance(shard, int):
            self.states[task] = f"shard {shard}"
            self._under_way.setdefault(worker, {})[shard] = int(event.get("reused", 0))
        elif kind == "progress" and isinstance(shard, int):
            self._under_way.setdefault(worker, {})[shard] = int(event.get("done", 0))
        elif kind == "image_failed":
            self.failed += 1
        elif kind == "shard_done" and isinstance(shard, int) and 0 <= shard < len(self.images_of):
            self.done.add(shard)
            self._under_way.get(worker, {}).pop(shard, None)
        elif kind == "exit":
            self._under_way.pop(worker, None)
            self.states.pop(task, None)


def list_shards(paths: RunPaths, shards: int) -> set[int]:
    """Return the numbers of the shards that are on disk, of `shards` altogether."""
    names = set(os.listdir(paths.shards)) if paths.shards.is_dir() else set[str]()
    return {number for number in range(shards) if paths.shard(number).name in names}


def shard_sizes(images: int, shard_size: int) -> list[int]:
    """Return the number of images of each shard."""
    return [min(shard_size, images - first) for first in range(0, images, shard_size)]


def describe_tasks(
    records: Sequence[Mapping[str, Any]], tasks: Sequence[QueuedTask], states: Mapping[str, str]
) -> dict[str, str]:
    """Return a few words on each queued task: the cluster's state, and what its newest attempt does.

    `states`: what the workers do, by the attempt's name.
    """
    newest = {record["index"]: record for record in records}
    descriptions: dict[str, str] = {}
    for task in tasks:
        record = newest.get(task.index)
        if task.is_running and record is not None and record.get("state") in WORKING_STATES:
            state = states.get(str(record["task"])) or str(record["state"])
            descriptions[f"task {task.index}"] = f"{state}, on {task.node}"
        else:
            has_reason = task.state == "PENDING" and task.reason not in ("None", "")
            reason = f" ({task.reason})" if has_reason else ""
            descriptions[f"task {task.index}"] = f"{task.state.lower()}{reason}"
    return descriptions
