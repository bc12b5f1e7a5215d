"""Notice a predictor that hangs: the time that a worker may take for one batch.

A worker's heartbeats come from a thread of their own, and continue while its predictor hangs. Its other events come
from the thread that predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.plan import Plan

BATCH_SECONDS = 180.0
"""Limit of a batch, unless batches of the run were slow: above the limit of decoding one image, which fails alone."""
BATCH_FACTOR = 20
"""A batch may take this many times as long as the slowest batch so far."""
FIRST_BATCH_SECONDS = 1800.0
"""Limit of a worker's first batch, in which kernels are compiled and memory is reserved."""
_MOST_BETWEEN_EVENTS = 10.0
"""Seconds that count at most between two events, heartbeats too: without any, a worker is silent, or was not read."""
_SIGNS_OF_PROGRESS = ("ready", "shard_started", "batch", "progress", "image_failed", "notice", "shard_done")


@dataclass
class BatchLimits:
    """The limits of a run's batches in seconds, and what its batches took so far."""

    fixed: float | None = None
    """What the user asked for; 0: no limit; None: derived from the batches."""
    first: float = FIRST_BATCH_SECONDS
    slowest: float = 0.0
    """The slowest batch so far, without the first batch of each worker."""
    slowest_first: dict[int, float] = field(default_factory=dict)
    """The slowest first batch of a model that was just loaded, by slot: slots may have different devices."""

    def limit(self, slot: int, *, is_first: bool) -> float:
        """Return the limit of a batch in a slot; `is_first`: of the first batch of its worker."""
        if self.fixed == 0:
            return float("inf")
        limit = self.fixed or max(BATCH_SECONDS, BATCH_FACTOR * self.slowest)
        if not is_first:
            return limit
        seen = self.slowest_first.get(slot)
        return max(limit, self.first if seen is None else min(self.first, BATCH_FACTOR * seen))

    def record_first(self, slot: int, seconds: float) -> None:
        """Note how long the first batch of a worker took."""
        self.slowest_first[slot] = max(seconds, self.slowest_first.get(slot, 0.0))

    def record(self, seconds: float) -> None:
        """Note how long another batch took."""
        self.slowest = max(seconds, self.slowest)


def make_batch_limits(plan: Plan, asked: float | None) -> BatchLimits:
    """Return the limits of a run; a first batch may take twice as long as stack.yaml says that compiling takes."""
    variant = plan.entry.stack.spec.variants.get(plan.request.variant)
    declared = variant.jit_minutes if variant is not None else None
    return BatchLimits(asked, max(FIRST_BATCH_SECONDS, 2 * 60.0 * (declared or 0)))


class BatchTimer:
    """How long one worker has worked since its last sign of progress.

    Counted from event to event: time in which nothing was read from the worker does not count as its own.
    """

    def __init__(self, limits: BatchLimits, slot: int, now: float) -> None:
        self._limits, self._slot, self._last_event = limits, slot, now
        self._spent = 0.0
        self._is_first, self._loads = True, False
        self._rows: dict[int, int] = {}
        """Finished images of each shard under way."""
        self._predicted = 0
        """Images that this worker finished, without those that failed: an undecodable image warms nothing up."""

    def update(self, event: Mapping[str, Any], state: WorkerState, now: float) -> float | None:
        """Take note of an event that `state` was updated by; return the limit that the worker exceeded, if any."""
        self._spent += min(now - self._last_event, _MOST_BETWEEN_EVENTS)
        self._last_event = now
        self._count_images(event)
        if event["event"] in _SIGNS_OF_PROGRESS:
            self._record(event["event"])
            self._spent = 0.0
        if not state.under_way:
            self._spent = 0.0
        limit = self._limits.limit(self._slot, is_first=self._is_first)
        return limit if self._spent > limit else None

    def _count_images(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "ready"}:
                self._is_first, self._loads = True, event.get("seconds", 0) > 0
                self._predicted = 0
            case {"event": "shard_started", "shard": int(shard), "reused": int(reused)}:
                self._rows[shard] = reused
            case {"event": "progress", "shard": int(shard), "done": int(done)}:
                self._predicted += max(0, done - self._rows.get(shard, 0))
                self._rows[shard] = done
            case {"event": "image_failed"}:
                self._predicted -= 1
            case {"event": "shard_done", "shard": int(shard)}:
                self._predicted += max(0, event.get("images", 0) - self._rows.pop(shard, 0))

    def _record(self, kind: str) -> None:
        if kind not in ("progress", "shard_done"):
            return
        if not self._is_first:
            self._limits.record(self._spent)
        elif self._predicted > 0:
            self._is_first = False
            if self._loads:  # else a warm worker's model has predicted before
                self._limits.record_first(self._slot, self._spent)
