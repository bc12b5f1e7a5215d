"""Leases: several `orch run`s on one host share its GPUs one run a GPU. A lock held by flock dies with its process."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.paths import leases_folder
from orchestrator.system.locks import acquire_lock


@dataclass(frozen=True)
class Holder:
    """Who has a GPU: the process, what it runs, and since when (local time)."""

    pid: int | None = None
    what: str = "another orch"
    since: str | None = None

    def describe(self) -> str:
        """ "garments-tiny into /x/out, process 4711, since 2026-11-22 14:03:10"."""
        words = [self.what, f"process {self.pid}" if self.pid else "", f"since {self.since}" if self.since else ""]
        return ", ".join(filter(None, words))


class Lease:
    """The exclusive use of one GPU, until it is released or the process ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def release(self) -> None:
        """Let others have it. Twice does no harm."""
        if self._stream.closed:
            return
        with suppress(OSError):
            self._stream.truncate(0)
        self._stream.close()


def lease(gpu: str, what: str) -> Lease | Holder:
    """Take a GPU by its UUID, saying for what; the one who has it, if it is taken."""
    path = lease_file(gpu)
    stream = acquire_lock(path, wait=False)
    if stream is None:
        return _holder(path)
    stream.truncate(0)
    json.dump({"pid": os.getpid(), "what": what, "since": time.strftime("%Y-%m-%d %H:%M:%S")}, stream)
    stream.flush()
    return Lease(stream)


def lease_file(gpu: str) -> Path:
    """The lock file of a GPU, or of a MIG slice, whose names may have slashes."""
    return leases_folder() / f"{gpu.replace('/', '_')}.lock"


def _holder(lock: Path) -> Holder:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
        return Holder(int(found["pid"]), str(found["what"]), str(found["since"]))
    except (OSError, ValueError, KeyError, TypeError):  # it is being written at this moment
        return Holder()
