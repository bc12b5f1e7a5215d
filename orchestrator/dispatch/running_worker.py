"""A worker that runs: its process or container, its queue, and what the dispatcher knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.dispatch.batch_timer import BatchTimer
from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.inputs import InputImage
from orchestrator.paths import GuestFolder
from orchestrator.runtimes import JobQueue, Worker


@dataclass
class RunningWorker:
    """A running worker, its queue, and its state as its events describe it. Times are monotonic."""

    worker: Worker
    queue: JobQueue
    slot: int
    out: GuestFolder
    last_event: float
    timer: BatchTimer
    state: WorkerState = field(default_factory=WorkerState)
    last_recorded: float = float("-inf")
    """When one of its progress events was last recorded."""
    queued_at: dict[int, float] = field(default_factory=dict)
    """When each of its shards was put into its queue."""
    shards: dict[int, Sequence[InputImage]] = field(default_factory=dict)
    """The images of the shards that it was given and whose results did not come yet."""
    is_killed_as_silent: bool = False
    excess: str | None = None
    """The limit that it exceeded, for which it was killed."""
    next_size_check: float = 0.0
    is_ending: bool = False
    """Whether it was told that no more shards will come."""

    @property
    def name(self) -> str:
        """Return the worker's name."""
        return self.worker.name

    def end(self) -> None:
        """Have the worker leave once its queue is empty."""
        self.is_ending = True
        self.queue.end()
