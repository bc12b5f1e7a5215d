"""A job that a warm worker has, as its supervisor knows it, and what its folder says."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional

from orch_runner.contract import Job, read_shard_order
from orch_runner.liveness import SignOfLife
from orch_runner.serving.model_process_handle import KeeperProcess


@dataclass
class UnderWay:
    """A job that was claimed, and what its keepers know of it."""

    id: str
    folder: Path
    model: str
    run: str
    key: str
    careful: bool
    host: SignOfLife
    keeper: Optional[KeeperProcess] = None
    """None while it waits for one."""
    seen: List[str] = field(default_factory=list)
    sequence: int = 0
    images: int = 0
    started: float = field(default_factory=time.monotonic)
    stopped: bool = False
    dropped: Optional[float] = None

    def __str__(self) -> str:
        return f"{self.model}: job {self.id[-4:]} of run {self.run[:4]}…"


def begins_careful(job: Job) -> bool:
    """Whether the first shard that lies there is a careful one."""
    names = sorted(path for path in job.queue.glob("*.json") if path.name[0] != ".")
    return bool(names) and read_shard_order(names[0]).careful


def life_of(job: Job) -> SignOfLife:
    """Of the host of a job."""
    return SignOfLife(job.queue / "alive", job.alive_timeout)


def is_gone(folder: Path) -> bool:
    """Whether the host took it away. A mount that fails for a moment takes nothing away."""
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def is_there(path: Path) -> bool:
    """Whether a file is there, as far as can be seen."""
    try:
        return path.exists()
    except OSError:
        return False


def events_in(folder: Path) -> int:
    """How many events a job has."""
    try:
        return (folder / "events.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0
