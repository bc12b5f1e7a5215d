"""How far a run on a cluster is, read from what its tasks leave in the run directory; pure but for the reading."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.dispatch.slurm.commands import QueuedTask
from orchestrator.paths import RunPaths
from orchestrator.system.json_lines import JsonLinesFile


@dataclass
class Progress:
    """Images and shards that are done, as far as events tell. A shard done twice counts once."""

    images_of: Sequence[int]
    """Number of images of each shard."""
    done: set[int] = field(default_factory=set)
    failed: int = 0
    states: dict[str, str] = field(default_factory=dict)
    _under_way: dict[str, dict[int, int]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images done, those of shards under way too."""
        under_way: dict[int, int] = {}
        for shards in self._under_way.values():
            for shard, count in shards.items():
                if shard not in self.done:
                    under_way[shard] = max(count, under_way.get(shard, 0))
        return sum(self.images_of[shard] for shard in self.done) + sum(under_way.values())

    def take(self, task: str, event: Mapping[str, Any]) -> None:
        """An event of one of a task's workers."""
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


class EventTail:
    """New lines of all tasks' event files since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, JsonLinesFile] = {}

    def new(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """(task, event), whole lines only."""
        for file in sorted(self._folder.glob("*.jsonl")):
            for event in self._files.setdefault(file, JsonLinesFile(file)).read_new():
                yield file.stem, event


def shards_on_disk(paths: RunPaths, shards: int) -> set[int]:
    """The shards whose files are there."""
    there = set(os.listdir(paths.shards)) if paths.shards.is_dir() else set[str]()
    return {number for number in range(shards) if paths.shard(number).name in there}


def shard_sizes(images: int, shard_size: int) -> list[int]:
    """Images of each shard."""
    return [min(shard_size, images - first) for first in range(0, images, shard_size)]


def task_states(
    records: Sequence[Mapping[str, Any]], waiting: Sequence[QueuedTask], at_work: Mapping[str, str]
) -> dict[str, str]:
    """A few words on each task in the queue: what Slurm says, and what the newest start of it is at."""
    newest = {record["index"]: record for record in records}
    found: dict[str, str] = {}
    for task in waiting:
        record = newest.get(task.index)
        if task.state == "RUNNING" and record is not None and record.get("state") in ("preparing", "predicting"):
            state = at_work.get(str(record["task"])) or str(record["state"])
            found[f"task {task.index}"] = f"{state}, on {task.node}"
        else:
            reason = f" ({task.reason})" if task.reason not in ("None", "") and task.state == "PENDING" else ""
            found[f"task {task.index}"] = f"{task.state.lower()}{reason}"
    return found
