"""Limits of a worker: the user that it runs as, memory, processes, sizes of files; how they are written and said."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from orchestrator.errors import UsageError

PROCESSES = 2048
FILE_SIZE = 8 << 30
"""Bytes of one file: caches of kernels and graphs are smaller, and so are shards."""
OUT_SIZE = 16 << 30
"""Bytes of an out folder: it holds shards under way, the host removes those it has taken."""
MEMORY_SHARE = 0.9
"""Share of the machine's memory that all workers of a run may use together."""
LOG_SIZE = 1 << 30
"""Bytes that a container may log on each of its two streams: about a week of events."""
KEPT_LOG_SIZE = 64 << 20
"""Bytes of a worker's log that are kept in the run directory."""

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_USER = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
_LARGEST_ID = (1 << 32) - 2
MOST_DIGITS = 30  # a float has no place for many more
SMALLEST_SIZE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of each worker; sizes in bytes. None: where asked for, the default; where in force, no limit."""

    user: tuple[int, int] | None = None
    """Uid and gid on the host."""
    memory: int | None = None
    processes: int | None = None
    file_size: int | None = None
    out_size: int | None = None

    def given(self) -> list[str]:
        """Return the command line's options of the limits that are set."""
        return [f"--{field.name.replace('_', '-')}" for field in fields(self) if getattr(self, field.name) is not None]

    def as_json(self) -> dict[str, Any]:
        """Return them for --json and work.json."""
        return {**asdict(self), "user": None if self.user is None else f"{self.user[0]}:{self.user[1]}"}

    def describe(self) -> str:
        """Return them as a sentence's end, such as "run as 65534:65534, each with at most 21.2 GiB of memory"."""
        sizes = [
            self.memory and f"{format_size(self.memory)} of memory",
            self.processes and f"{self.processes} processes",
            self.file_size and f"{format_size(self.file_size)} per file",
            self.out_size and f"{format_size(self.out_size)} of results under way",
        ]
        user = "" if self.user is None else f"run as {self.user[0]}:{self.user[1]}, "
        return f"{user}each with at most {', '.join(size for size in sizes if size)}"


NO_LIMITS = Limits()
"""Nothing was asked for."""


def parse_size(value: object) -> int:
    """Return the bytes of a size such as 8G, 500M or 1.5 GiB; a plain number is bytes. Raises ValueError."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or len(match[0]) > MOST_DIGITS:
        raise ValueError("must be a size, such as 500M or 8G")
    size = int(float(match[1]) * (1 << _UNITS[match[2].upper()]))
    if size < SMALLEST_SIZE:
        raise ValueError("must be 1M at least")
    return size


def format_size(size: int) -> str:
    """Return "21.2 GiB", "500 MiB" or "12 KiB"."""
    if size < 1 << 20:
        return f"{size / (1 << 10):.0f} KiB"
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def parse_user(value: object) -> tuple[int, int]:
    """Return uid and gid of UID[:GID]; without a gid, the gid is the uid. Raises ValueError."""
    match = _USER.fullmatch(str(value))
    if match is None:
        raise ValueError("must be UID or UID:GID, in numbers")
    uid, gid = int(match[1]), int(match[2] or match[1])
    if uid == 0 or gid == 0:
        raise ValueError("no worker runs as root, nor in root's group")
    if max(uid, gid) > _LARGEST_ID:
        raise ValueError(f"ids end at {_LARGEST_ID}")
    return uid, gid


def refuse_limits(asked: Limits, runtime: str, supported: frozenset[str]) -> None:
    """Raise UsageError for a limit that a runtime cannot set."""
    refused = [option for option in asked.given() if option not in supported]
    if refused:
        raise UsageError(
            f"{refused[0]} cannot be used with the runtime {runtime}",
            why="its workers are processes of this machine, without a container's limits",
            hint="--runtime docker",
        )
