"""A scheduler for one of several tasks that share a run: it hands out the shards that it can claim."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from orchestrator.dispatch.scheduler import ImagesOf, Scheduler
from orchestrator.dispatch.shared.claims import Claims

PASS_SECONDS = 5.0
"""Least time between two passes over the shards that other tasks left: all tasks read the same folders."""
LOOKS_PER_LEASE = 4
"""How often per lease a task looks for expired claims of other tasks."""
TRIES_PER_CALL = 50

Clock = Callable[[], float]


class ClaimingScheduler(Scheduler):
    """Hands out claimed shards: first those of the task's own share, in order, then any unclaimed ones.

    `share` is the task's index and the number of tasks. `remaining` counts the shards not known to be on disk: until
    there are none a task stays, because another one may be lost.
    """

    def __init__(
        self,
        shards: Sequence[int],
        images_of: ImagesOf,
        claims: Claims,
        is_done: Callable[[int], bool],
        share: tuple[int, int] = (0, 1),
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__((), images_of)
        self._claims, self._is_done, self._clock = claims, is_done, clock
        self._open = set(shards)
        count = max(1, share[1])
        index = share[0] % count
        first, end = len(shards) * index // count, len(shards) * (index + 1) // count
        self._candidates: Iterator[int] = iter(shards[first:end])
        self._next_pass = self._next_stale = clock()
        self._random = random.Random(repr(share))  # other tasks pass over the same shards: in another order

    @property
    def can_get_more(self) -> bool:
        """True until all shards are known to be on disk: another task may be lost."""
        return bool(self._open)

    @property
    def pending(self) -> int:
        """Claimed shards that no worker has. Claims one if there are none, for a worker that is about to start."""
        if not self._pending:
            number = self._claim_next()
            if number is not None:
                self._pending.append(number)
        return len(self._pending)

    def mark_done(self, number: int) -> bool:
        """Take note that a worker finished a shard: it is on disk, so its claim is released."""
        is_new = super().mark_done(number)
        self._claims.release(claim_name(number))
        return is_new

    def _take(self) -> int | None:
        own = super()._take()
        return self._claim_next() if own is None else own

    def _claim_next(self) -> int | None:
        for _ in range(TRIES_PER_CALL):
            number = next(self._candidates, None)
            if number is None:
                if not self._begin_pass():
                    return None
            elif self._is_done(number):
                self._open.discard(number)
            elif self._claim(number):
                return number
        return None

    def _claim(self, number: int) -> bool:
        name = claim_name(number)
        if not (self._claims.take(name) or self._claims.take_over(name)):
            return False
        if not self._is_done(number):
            return True
        self._claims.release(name)  # finished between the look and the claim
        self._open.discard(number)
        return False

    def _begin_pass(self) -> bool:
        """List the shards that no task has; False when it is too early to look again."""
        if self._clock() < self._next_pass or not self._open:
            return False
        self._next_pass = self._clock() + PASS_SECONDS
        claimed = self._claims.list_all()
        stale = self._find_stale(claimed)
        free = [number for number in sorted(self._open) if claim_name(number) not in claimed - stale]
        self._random.shuffle(free)
        self._candidates = iter(free)
        return True

    def _find_stale(self, claimed: set[str]) -> set[str]:
        """Return expired claims. Costs one file system call per claim, so it is not repeated soon."""
        if self._clock() < self._next_stale:
            return set()
        self._next_stale = self._clock() + self._claims.lease / LOOKS_PER_LEASE
        return set(self._claims.find_stale(claimed.difference(self._claims.list_own())))


def claim_name(shard: int) -> str:
    """Return the name of the claim on a shard."""
    return f"{shard:05d}"
