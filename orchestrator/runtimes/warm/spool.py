"""The spool as the host sees it: the names of its files, and what workers say of themselves (see orch_runner.serve)."""

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
"""A worker whose heartbeat stands still for so long is taken for gone."""
STALE_SECONDS = 120.0
"""A heartbeat so old is not watched for signs of life; clocks that differ by more are not provided for."""
UNLOCKED_SECONDS = 4.0
"""The same where its lock says so too. Alone the lock says nothing: machines between host and worker may hide it."""


@dataclass(frozen=True)
class SpoolPaths:
    """Every file of a spool that the host names."""

    root: Path

    def tickets(self, stack: str, variant: str) -> Path:
        """Where jobs for a variant's workers wait."""
        return self.root / "tickets" / f"{stack}-{variant}"

    def claim(self, worker: str, job: str) -> Path:
        """The ticket of a job that a worker took."""
        return self.root / "claimed" / worker / f"{job}.json"

    @property
    def jobs(self) -> Path:
        """The job folders."""
        return self.root / "jobs"

    @property
    def workers(self) -> Path:
        """Heartbeats, and what goes with them."""
        return self.root / "workers"

    def staged(self, run: str) -> Path:
        """Images of a run that no worker sees where they are."""
        return self.root / "data" / run


@dataclass(frozen=True)
class Heartbeat:
    """What a worker said of itself last."""

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
    """Raises ValueError, KeyError, TypeError for what is no heartbeat."""
    if raw["format"] != WORKER_FORMAT:
        raise ValueError(f"a heartbeat of format {raw['format']!r}")
    known = {one.name: raw[one.name] for one in fields(Heartbeat) if one.name != "digests"}
    weights = {name: (int(size), int(mtime)) for name, (size, mtime) in raw["weights"].items()}
    # A worker of an earlier orch gives no digests; it is told apart by its files, with a reason.
    return Heartbeat(**{**known, "weights": weights, "digests": dict(raw.get("digests") or {})})


def read_heartbeat(spool: SpoolPaths, worker: str) -> Heartbeat | None:
    """The heartbeat of a worker; None where there is none to be read."""
    try:
        return parse_heartbeat(json.loads((spool.workers / f"{worker}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def workers_of(spool: SpoolPaths) -> list[str]:
    """The ids of all workers that left a heartbeat there, dead ones too."""
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
    """Whether a process of this kernel holds the worker's lock."""
    try:
        with (spool.workers / f"{worker}.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Pulse:
    """Observes a worker's heartbeat by this process's own clock: clocks of host and worker may differ."""

    def __init__(self, spool: SpoolPaths, worker: str) -> None:
        self._spool, self.worker = spool, worker
        self._beat: int | None = None
        self._changed = time.monotonic()

    def gone(self) -> bool:
        """Whether it has stood still for too long, over the calls of this."""
        now, seen = time.monotonic(), read_heartbeat(self._spool, self.worker)
        beat = None if seen is None else seen.beat
        if beat is not None and beat != self._beat:
            self._beat, self._changed = beat, now
        still = now - self._changed
        return still > GONE_SECONDS or (still > UNLOCKED_SECONDS and not is_locked(self._spool, self.worker))


def alive_among(spool: SpoolPaths, workers: Sequence[str], patience: float) -> set[str]:
    """Those workers that are up: at once those that hold their locks and beat lately.

    Only where there are none of these, the others are watched for `patience` seconds: whether their hearts beat.
    """
    ages = {worker: _age(spool, worker) for worker in workers}
    sure = {worker for worker, age in ages.items() if age < GONE_SECONDS and is_locked(spool, worker)}
    doubtful = [worker for worker, age in ages.items() if age < STALE_SECONDS and worker not in sure]
    if sure or not doubtful:
        return sure
    first = {worker: _beat(spool, worker) for worker in doubtful}
    until = time.monotonic() + patience
    while not sure and time.monotonic() < until:
        time.sleep(0.1)
        sure = {worker for worker in doubtful if _beat(spool, worker) not in (None, first[worker])}
    return sure


def is_alive(spool: SpoolPaths, worker: str, patience: float) -> bool:
    """Whether one worker is up."""
    return bool(alive_among(spool, [worker], patience))


def _beat(spool: SpoolPaths, worker: str) -> int | None:
    found = read_heartbeat(spool, worker)
    return None if found is None else found.beat


def _age(spool: SpoolPaths, worker: str) -> float:
    try:
        return abs(time.time() - (spool.workers / f"{worker}.json").stat().st_mtime)
    except OSError:
        return STALE_SECONDS
