"""The host's side of the guest contract: job.json and the queue. The reference is orch_runner.__main__."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

from orchestrator.errors import RuntimeUnsuitable
from orchestrator.inputs.collect import InputImage
from orchestrator.paths import GuestFolder
from orchestrator.system.files import json_bytes
from orchestrator.system.guest_tree import GuestFileRefused, GuestTree

CONTRACT = "orch-job/1"
ALIVE_TIMEOUT = 60.0
"""Seconds after which a worker leaves its job if the host no longer touches the file `alive`."""
ALIVE_EVERY = 2.0
"""Seconds between two touches of the file `alive`."""
PART_EVERY = 60.0
"""Seconds between two saves of an unfinished shard."""
END_NAME = "end"
ALIVE_NAME = "alive"
QUEUE_NAME = "queue"
JOB_NAME = "job.json"


@dataclass(frozen=True)
class GuestPaths:
    """A worker's folders, by the names under which its runtime shows them to it."""

    data: PurePath
    weights: PurePath
    out: PurePath
    cache: PurePath
    queue: PurePath
    stack: PurePath
    sources: Mapping[str, PurePath] = field(default_factory=dict, kw_only=True)
    """Upstream code by the names stack.yaml gives it."""


def job_document(settings: Mapping[str, Any], worker: str, paths: GuestPaths) -> dict[str, Any]:
    """Return the content of job.json: `settings`, which a run's workers share, and this worker's paths."""
    located: dict[str, Any] = {name: str(path) for name, path in asdict(paths).items() if name != "sources"}
    located["sources"] = {name: str(path) for name, path in paths.sources.items()}
    times = {"alive_timeout": ALIVE_TIMEOUT, "part_every": PART_EVERY}
    return {**settings, "contract": CONTRACT, "worker": worker, **times, "paths": located}


@dataclass(frozen=True)
class ShardOrder:
    """A shard as a worker gets it; see the contract for skip, careful and alone."""

    number: int
    images: Sequence[InputImage]
    skip: Mapping[int, str] = field(default_factory=dict)
    careful: bool = False
    alone: frozenset[int] = frozenset()

    def document(self) -> dict[str, Any]:
        """Return the content of the shard's file in the queue."""
        known = {image.index: image.error for image in self.images if image.error is not None}
        return {
            "shard": self.number,
            "images": [{"index": image.index, "file": image.file, "path": image.path} for image in self.images],
            "skip": {str(index): reason for index, reason in {**known, **self.skip}.items()},
            "careful": self.careful,
            "alone": sorted(self.alone),
        }


class JobQueue:
    """The queue in a worker's job folder: a file per shard, and the signs `alive` and `end`.

    A warm worker can change its job folder. What it damages there is not written, and the worker counts as lost.
    """

    def __init__(self, job: GuestFolder) -> None:
        self._job = job
        self._queue = f"{job.name}/{QUEUE_NAME}"
        self._touched = 0.0

    def create(self) -> None:
        """Make the job folder and the queue's, with the sign that this host is alive. Raises RuntimeUnsuitable."""
        with writing_job(self._job) as tree:
            state = tree.status()
            is_others = os.geteuid() == 0 != state.st_uid and not tree.is_shared
            # Root's warm workers are nobody, who writes events and results into the job folder.
            tree.make_folder(self._job.name, (state.st_uid, state.st_gid) if is_others else None)
            tree.make_folder(self._queue)
            tree.touch(f"{self._queue}/{ALIVE_NAME}")
        self._touched = time.monotonic()

    def put(self, shard: ShardOrder) -> None:
        """Write a shard's file."""
        with self._opened() as tree:
            tree.write(self._file(shard.number), json_bytes(shard.document()))

    def remove(self, number: int) -> None:
        """Delete a shard's file, if it is there."""
        with self._opened() as tree:
            tree.remove(self._file(number))

    def end(self) -> None:
        """Have the worker leave once the queue is empty."""
        with self._opened() as tree:
            tree.touch(f"{self._queue}/{END_NAME}")

    def keep_alive(self) -> None:
        """Touch the sign that this host is alive, if it is due."""
        now = time.monotonic()
        if now - self._touched >= ALIVE_EVERY:
            self._touched = now
            with self._opened() as tree:
                tree.touch(f"{self._queue}/{ALIVE_NAME}")

    @contextmanager
    def _opened(self) -> Iterator[GuestTree]:
        with suppress(GuestFileRefused, FileNotFoundError), GuestTree(self._job.root) as tree:
            yield tree

    def _file(self, number: int) -> str:
        return f"{self._queue}/{number:05d}.json"


@contextmanager
def writing_job(job: GuestFolder) -> Iterator[GuestTree]:
    """Yield the tree of a job folder; what a guest damaged in it is raised as RuntimeUnsuitable."""
    try:
        with GuestTree(job.root) as tree:
            yield tree
    except (GuestFileRefused, FileNotFoundError, FileExistsError) as error:
        raise RuntimeUnsuitable(
            f"cannot write the job {job.name} in {job.root}",
            why=f"the worker changed it: {error.strerror}",
            hint="orch ps; orch down STACK ends the worker, orch up STACK starts another",
        ) from error


def write_job(job: GuestFolder, document: Mapping[str, Any]) -> None:
    """Write job.json. Raises RuntimeUnsuitable."""
    with writing_job(job) as tree:
        tree.write(f"{job.name}/{JOB_NAME}", json_bytes(document))
