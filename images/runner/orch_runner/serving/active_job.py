"""A job that a warm worker has claimed: what its supervisor knows of it, and what its folder shows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional

from orch_runner.contract import JobRefused, RunnerJob, read_queued_shard
from orch_runner.liveness import Liveness
from orch_runner.serving.model_process_handle import ModelProcessHandle


@dataclass
class ActiveJob:
    """A claimed job and its progress over all model processes that serve it."""

    id: str
    folder: Path
    model: str
    run: str
    load_key: str
    careful: bool
    host: Liveness
    process: Optional[ModelProcessHandle] = None
    """None while the job waits for one."""
    seen: List[str] = field(default_factory=list)
    sequence: int = 0
    images: int = 0
    started: float = field(default_factory=time.monotonic)
    is_stopped: bool = False
    dropped_at: Optional[float] = None

    def __str__(self) -> str:
        return f"{self.model}: job {self.id[-4:]} of run {self.run[:4]}…"


def starts_careful(job: RunnerJob) -> bool:
    """Return whether the first queued shard is a careful one. Raises JobRefused when it cannot be read."""
    for path in sorted(path for path in job.queue.glob("*.json") if path.name[0] != "."):
        try:
            return read_queued_shard(path).careful
        except JobRefused:
            if path.exists():
                raise
            # the host has just withdrawn it, for another worker
    return False


def watch_host(job: RunnerJob) -> Liveness:
    """Return the liveness of a job's host."""
    return Liveness(job.queue / "alive", job.alive_timeout)


def is_deleted(folder: Path) -> bool:
    """Return whether the host deleted the folder; False for a mount that fails temporarily."""
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def is_visible(path: Path) -> bool:
    """Return whether a file exists; False for a mount that fails temporarily."""
    try:
        return path.exists()
    except OSError:
        return False


def count_events(folder: Path) -> int:
    """Return how many events a job has."""
    try:
        with (folder / "events.jsonl").open("rb") as events:
            return sum(1 for line in events if line.endswith(b"\n"))
    except OSError:
        return 0
