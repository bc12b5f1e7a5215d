"""The host's side of the guest contract: job.json and the queue. The reference is orch_runner.__main__."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from orchestrator.inputs.collect import InputImage
from orchestrator.system.files import write_json

CONTRACT = "orch-job/2"
ALIVE_TIMEOUT = 60.0
"""Seconds after which a worker leaves its job if the host no longer touches the file `alive`."""
ALIVE_EVERY = 2.0
"""Seconds between two touches of the file `alive`."""
PART_EVERY = 60.0
"""Seconds between two saves of an unfinished shard."""
MAX_FILE_BYTES = 1 << 30
"""Larger image files fail instead of being read into memory."""
DECODE_TIMEOUT = 120.0
"""Seconds after which an image that is still being decoded fails."""
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
    limits = {"max_file_bytes": MAX_FILE_BYTES, "decode_timeout": DECODE_TIMEOUT}
    return {**settings, "contract": CONTRACT, "worker": worker, **times, **limits, "paths": located}


_IMAGE_FIELDS = ("index", "file", "path", "size", "mtime_ns")
"""The state of the file is part of it: staged copies must keep their modification times."""


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
            "images": [{name: getattr(image, name) for name in _IMAGE_FIELDS} for image in self.images],
            "skip": {str(index): reason for index, reason in {**known, **self.skip}.items()},
            "careful": self.careful,
            "alone": sorted(self.alone),
        }


class JobQueue:
    """The queue in a worker's job folder: a file per shard, and the signs `alive` and `end`."""

    def __init__(self, job: Path) -> None:
        self.folder = job / QUEUE_NAME

    def create(self) -> None:
        """Make the queue's folder, with the sign that this host is alive."""
        self.folder.mkdir(parents=True)
        (self.folder / ALIVE_NAME).touch()

    def put(self, shard: ShardOrder) -> None:
        """Write a shard's file."""
        write_json(self._file(shard.number), shard.document(), durable=False)

    def remove(self, number: int) -> None:
        """Delete a shard's file, if it is there."""
        self._file(number).unlink(missing_ok=True)

    def end(self) -> None:
        """Have the worker leave once the queue is empty."""
        (self.folder / END_NAME).touch()

    def keep_alive(self) -> None:
        """Touch the sign that this host is alive, if it is due."""
        alive = self.folder / ALIVE_NAME
        if time.time() - alive.stat().st_mtime >= ALIVE_EVERY:
            os.utime(alive)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"
