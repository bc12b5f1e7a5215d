"""The host's side of the guest contract: job.json, the queue and the events. The reference is orch_runner.__main__."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

from orchestrator.errors import RuntimeUnsuitable
from orchestrator.inputs import InputImage
from orchestrator.paths import GuestFolder
from orchestrator.system import GuestFileRefused, GuestTree, json_bytes, parse_object

CONTRACT = "orch-job/2"
ALIVE_TIMEOUT = 60.0
"""Seconds after which a worker leaves its job if the host no longer changes the file `alive`."""
ALIVE_EVERY = 2.0
"""Seconds between two changes of the file `alive`."""
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
JOB_MODE = 0o644
"""Of what a worker reads in its job folder: root's workers run as another user, whatever root's umask is."""
OUT_NAME = "out"
"""The worker's own folder for results, in its job folder."""


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
    repeat: int = 0
    """How often its result was refused: a worker takes a file of the queue only once, so each repeat has its own."""

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
    """The queue in a worker's job folder: a file per shard, and the signs `alive` and `end`.

    A warm worker can change its job folder. What cannot be written there is written later; a worker that replaced the
    folder for good counts as lost (runtimes.warm.worker).
    """

    def __init__(self, job: GuestFolder) -> None:
        self._job = job
        self._queue = f"{job.name}/{QUEUE_NAME}"
        self._files: dict[int, str] = {}
        self._unwritten: dict[str, bytes] = {}
        self._changed, self._changes = 0.0, 0

    def create(self) -> None:
        """Make the job folder and the queue's, with the sign that this host is alive. Raises RuntimeUnsuitable."""
        with writing_job(self._job) as tree:
            state = tree.status()
            is_others = os.geteuid() == 0 != state.st_uid and not tree.is_shared
            # Root's warm workers are nobody, who writes events and results into the job folder.
            tree.make_folder(self._job.name, (state.st_uid, state.st_gid) if is_others else None)
            tree.make_folder(self._queue)
            tree.touch(f"{self._queue}/{ALIVE_NAME}")
        self._changed = time.monotonic()

    def put(self, shard: ShardOrder) -> None:
        """Write a shard's file."""
        suffix = f".{shard.repeat}" if shard.repeat else ""
        file = self._files[shard.number] = f"{self._queue}/{shard.number:05d}{suffix}.json"
        self._unwritten[file] = json_bytes(shard.document())
        self._write()

    def remove(self, number: int) -> None:
        """Delete a shard's file, if it is there."""
        file = self._files.pop(number, None)
        if file is not None:
            self._unwritten.pop(file, None)
            with self._opened() as tree:
                tree.remove(file)

    def end(self) -> None:
        """Have the worker leave once the queue is empty."""
        self._unwritten[f"{self._queue}/{END_NAME}"] = b""
        self._write()

    def keep_alive(self) -> None:
        """Change the sign that this host is alive, if it is due, and write what could not be written.

        What goes wrong with the sign is no error of the run: a worker that misses it for long ends, and is replaced.
        """
        if self._unwritten:
            self._write()
        now = time.monotonic()
        if now - self._changed >= ALIVE_EVERY:
            self._changed = now
            self._changes += 1
            sign = f"{self._queue}/{ALIVE_NAME}"
            with suppress(OSError), self._opened() as tree:
                try:
                    tree.write(sign, str(self._changes).encode())
                except OSError:  # a full disk takes no new file, but a new time of the one that is there
                    tree.touch(sign)

    def _write(self) -> None:
        with self._opened() as tree:
            for file, content in list(self._unwritten.items()):
                tree.write(file, content)
                del self._unwritten[file]

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


LINE_BYTES = 1 << 16
"""A longer line of a worker is no event."""
TEXT_LENGTH = 2000
"""Characters of a text in an event; more are cut."""
_LIST_LENGTH = 1 << 16
_LARGEST = 1 << 53
"""Numbers of events stay below: JSON readers that know only doubles read them exactly."""

_Check = Callable[[Any], Any]
"""Returns the value as it is kept. Raises ValueError for one that must not be there."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value[:TEXT_LENGTH]


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < _LARGEST:  # false for NaN too
        raise ValueError
    return value  # type: ignore[no-any-return]


def _optional(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


def _counts(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > _LIST_LENGTH:
        raise ValueError
    return [_count(item) for item in value]


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > _LIST_LENGTH:
        raise ValueError
    return {_text(name): _text(item) for name, item in value.items()}


EVENTS: Mapping[str, tuple[Mapping[str, _Check], Mapping[str, _Check]]] = {
    "hello": ({}, {"contract": _text, "runner": _text, "python": _text, "pid": _count}),
    "loading": ({}, {"model": _text}),
    "ready": ({}, {"device": _text, "batch_size": _count, "seconds": _number, "versions": _texts}),
    "shard_started": ({"shard": _count, "reused": _count}, {"images": _count}),
    "batch": ({"shard": _count, "indices": _counts}, {}),
    "image_failed": ({"shard": _count, "index": _count}, {"file": _text, "error": _text}),
    "progress": ({"shard": _count, "done": _count}, {"total": _count}),
    "notice": ({"message": _text}, {}),
    "shard_done": ({"shard": _count}, {"images": _count, "failed": _count, "instances": _count, "seconds": _number}),
    "heartbeat": ({}, {"rss_mb": _optional(_number)}),
    "failure": ({"category": _text, "message": _text}, {"hint": _optional(_text)}),
    "bye": ({}, {"reason": _text}),
}
"""The events of the contract: the fields that each must have, and those that it may have."""


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line that a worker printed, with the known fields only; None for any other line.

    Every value has the type and the bounds of the contract. `seq` is there, a whole number from 1 on.
    """
    raw = parse_object(line) if len(line) <= LINE_BYTES else None
    kind = None if raw is None else raw.get("event")
    if raw is None or not isinstance(kind, str) or kind not in EVENTS:
        return None
    required, optional = EVENTS[kind]
    checks = {"seq": _count, **required, **{name: check for name, check in optional.items() if name in raw}}
    if "time" in raw:
        checks["time"] = _number
    try:
        event = {name: check(raw[name]) for name, check in checks.items()}
    except (KeyError, ValueError):
        return None
    return {"event": kind, **event} if event["seq"] else None
