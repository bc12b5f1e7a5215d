"""GPU leases: at most one run per GPU on this host, whoever runs it. A lock ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.errors import MachineError
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
    """Lease a GPU by its UUID and record what for; return the holder if another run has it. Raises MachineError."""
    path = lease_file(gpu)
    try:
        _make_folder(path.parent)
        lock = acquire_lock(path, wait=False)
    except OSError as error:
        raise MachineError(
            f"cannot lease the GPU {gpu}: {path} cannot be used",
            why=error.strerror or str(error),
            hint="have its owner remove it, or name another folder for all users of this machine: ORCH_LEASES=FOLDER",
        ) from error
    if lock is None:
        return _read_holder(path)
    with suppress(OSError):  # a file of another user who let nobody write it: the lock is what counts
        os.fchmod(lock.fileno(), 0o666)
    with suppress(OSError):
        lock.truncate(0)
        json.dump({"pid": os.getpid(), "what": what, "since": time.strftime("%Y-%m-%d %H:%M:%S")}, lock)
        lock.flush()
    return Lease(lock)


def _make_folder(folder: Path) -> None:
    """Make the folder of leases, in which every user may make files and nobody may remove another's."""
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder of its own", str(folder))


def lease_file(gpu: str) -> Path:
    """Return the lock file of a GPU or of a MIG slice, whose UUID may have slashes."""
    return leases_folder() / f"{gpu.replace('/', '_')}.lock"


def _read_holder(path: Path) -> LeaseHolder:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return LeaseHolder(int(raw["pid"]), str(raw["what"]), str(raw["since"]))
    except (OSError, ValueError, KeyError, TypeError):  # it is being written at this moment
        return LeaseHolder()
