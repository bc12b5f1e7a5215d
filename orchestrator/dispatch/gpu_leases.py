"""GPU leases: at most one run per GPU on this host. The lock on a lease's file ends with the process that holds it."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.paths import leases_folder
from orchestrator.system import acquire_lock


@dataclass(frozen=True)
class LeaseHolder:
    """The process that uses a GPU, what it runs, and since when (local time)."""

    pid: int | None = None
    what: str = "another orch"
    since: str | None = None

    def describe(self) -> str:
        """Return "garments-tiny into /x/out, process 4711, since 2026-11-22 14:03:10"."""
        words = [self.what, f"process {self.pid}" if self.pid else "", f"since {self.since}" if self.since else ""]
        return ", ".join(filter(None, words))


class Lease:
    """The exclusive use of one GPU, until it is released or the process ends."""

    def __init__(self, lock: IO[str]) -> None:
        self._lock = lock

    def release(self) -> None:
        """Let others use the GPU. Releasing twice does no harm."""
        if self._lock.closed:
            return
        with suppress(OSError):
            self._lock.truncate(0)
        self._lock.close()


def lease_gpu(gpu: str, what: str) -> Lease | LeaseHolder:
    """Lease a GPU by its UUID and record what for; return the holder if another run has it."""
    path = lease_file(gpu)
    lock = acquire_lock(path, wait=False)
    if lock is None:
        return _read_holder(path)
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "what": what, "since": time.strftime("%Y-%m-%d %H:%M:%S")}, lock)
    lock.flush()
    return Lease(lock)


def lease_file(gpu: str) -> Path:
    """Return the lock file of a GPU or of a MIG slice, whose UUID may have slashes."""
    return leases_folder() / f"{gpu.replace('/', '_')}.lock"


def _read_holder(path: Path) -> LeaseHolder:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return LeaseHolder(int(raw["pid"]), str(raw["what"]), str(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):  # it is being written at this moment
        return LeaseHolder()
