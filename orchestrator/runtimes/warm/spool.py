"""The spool, the folder that hosts and warm workers share: its files and heartbeats (see orch_runner.serve)."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

TICKET_FORMAT = "orch-ticket/1"
WORKER_FORMAT = "orch-worker/1"
GONE_SECONDS = 10.0
"""A worker whose heartbeat has not changed for this long counts as gone."""
STALE_SECONDS = 120.0
"""A heartbeat older than this is not watched for changes; clocks may differ by less than that."""
UNLOCKED_SECONDS = 4.0
"""The same, where its lock is free as well. A free lock alone proves nothing: not all mounts pass locks on."""


@dataclass(frozen=True)
class SpoolPaths:
    """The files of a spool that the host uses."""

    root: Path

    def tickets(self, stack: str, variant: str) -> Path:
        """Return the folder of the jobs that wait for a variant's workers."""
        return self.root / "tickets" / f"{stack}-{variant}"

    def claim(self, worker: str, job: str) -> Path:
        """Return the file of a ticket that a worker claimed."""
        return self.root / "claimed" / worker / f"{job}.json"

    @property
    def jobs(self) -> Path:
        """Return the folder of the job folders."""
        return self.root / "jobs"

    @property
    def workers(self) -> Path:
        """Return the folder of the heartbeats, locks and lists of files of workers."""
        return self.root / "workers"

    def staged(self, run: str) -> Path:
        """Return the folder for a run's images that no worker can read where they are."""
        return self.root / "data" / run


@dataclass(frozen=True)
class Heartbeat:
    """The last heartbeat of a worker."""

    id: str
    stack: str
    variant: str
    device: str
    host: str
    uid: int
    gid: int
    threads: int
    beat: int
    state: str
    problem: str | None
    data_host: str | None
    data_inode: int | None
    weights: Mapping[str, tuple[int, int]]
    paths: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)


def parse_heartbeat(raw: Mapping[str, Any]) -> Heartbeat:
    """Parse a heartbeat's JSON. Raises ValueError, KeyError, TypeError."""
    if raw["format"] != WORKER_FORMAT:
        raise ValueError(f"a heartbeat of format {raw['format']!r}")
    known = {field.name: raw[field.name] for field in fields(Heartbeat) if field.name != "digests"}
    weights = {name: (int(size), int(mtime)) for name, (size, mtime) in raw["weights"].items()}
    # A worker of an earlier orch has no digests; it is refused later, for its files.
    return Heartbeat(**{**known, "weights": weights, "digests": dict(raw.get("digests") or {})})


def read_heartbeat(spool: SpoolPaths, worker: str) -> Heartbeat | None:
    """Return a worker's heartbeat; None where none can be read."""
    try:
        return parse_heartbeat(json.loads((spool.workers / f"{worker}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def list_worker_ids(spool: SpoolPaths) -> list[str]:
    """Return the ids of all workers with a heartbeat in the spool, dead ones too."""
    try:
        names = [path.name for path in spool.workers.iterdir()]
    except OSError:
        return []
    return sorted(
        name.removesuffix(".json")
        for name in names
        if name.endswith(".json") and not name.endswith(".files.json") and not name.startswith(".")
    )


def is_locked(spool: SpoolPaths, worker: str) -> bool:
    """Return whether a process of this kernel holds the worker's lock."""
    try:
        with (spool.workers / f"{worker}.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class HeartbeatWatch:
    """Watches a worker's heartbeat by this process's own clock: the worker's clock may differ."""

    def __init__(self, spool: SpoolPaths, worker: str) -> None:
        self._spool, self.worker = spool, worker
        self._beat: int | None = None
        self._changed = time.monotonic()

    def is_gone(self) -> bool:
        """Return whether the heartbeat has not changed for too long. To be called again and again."""
        now, beat = time.monotonic(), _read_beat(self._spool, self.worker)
        if beat is not None and beat != self._beat:
            self._beat, self._changed = beat, now
        unchanged = now - self._changed
        return unchanged > GONE_SECONDS or (unchanged > UNLOCKED_SECONDS and not is_locked(self._spool, self.worker))


def find_alive(spool: SpoolPaths, workers: Sequence[str], patience: float) -> set[str]:
    """Return the workers that are up: those with a held lock and a recent heartbeat, at once.

    Where there are none of these, the others' heartbeats are watched for up to `patience` seconds.
    """
    ages = {worker: _age(spool, worker) for worker in workers}
    alive = {worker for worker, age in ages.items() if age < GONE_SECONDS and is_locked(spool, worker)}
    doubtful = [worker for worker, age in ages.items() if age < STALE_SECONDS and worker not in alive]
    if alive or not doubtful:
        return alive
    first = {worker: _read_beat(spool, worker) for worker in doubtful}
    until = time.monotonic() + patience
    while not alive and time.monotonic() < until:
        time.sleep(0.1)
        alive = {worker for worker in doubtful if _read_beat(spool, worker) not in (None, first[worker])}
    return alive


def is_alive(spool: SpoolPaths, worker: str, patience: float) -> bool:
    """Return whether a worker is up."""
    return bool(find_alive(spool, [worker], patience))


def _read_beat(spool: SpoolPaths, worker: str) -> int | None:
    heartbeat = read_heartbeat(spool, worker)
    return None if heartbeat is None else heartbeat.beat


def _age(spool: SpoolPaths, worker: str) -> float:
    try:
        return abs(time.time() - (spool.workers / f"{worker}.json").stat().st_mtime)
    except OSError:
        return STALE_SECONDS
