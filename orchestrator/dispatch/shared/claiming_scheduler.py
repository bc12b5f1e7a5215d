"""The schedule of one of several tasks that share a run's shards: it hands out what it can claim."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from orchestrator.dispatch.scheduler import ImagesOf, Scheduler
from orchestrator.dispatch.shared.claims import Claims

PASS_SECONDS = 5.0
"""So long at least between two looks at what the others left: all tasks look at the same folders."""
LOOKS_PER_LEASE = 4
"""How often in the time of a lease a task looks whether others' leases ran out."""
TRIES_PER_CALL = 50

Clock = Callable[[], float]


class SharedSchedule(Scheduler):
    """Shards this task has claimed. First those of its own share in order, then any that nobody works on.

    `remaining` counts the shards not known to be on disk: while there are some, a task stays: others may be lost.
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
        place, of = share[0] % max(1, share[1]), max(1, share[1])
        self._candidates: Iterator[int] = iter(shards[len(shards) * place // of : len(shards) * (place + 1) // of])
        self._next_pass = self._next_stale = clock()
        self._chance = random.Random(repr(share))  # others look through the same shards: in another order

    @property
    def can_get_more(self) -> bool:
        """As long as a shard is not known to be on disk: another task may be lost."""
        return bool(self._open)

    @property
    def pending(self) -> int:
        """Shards that are claimed and no worker has. Looks for one where there is none: for a worker to come."""
        if not self._pending:
            number = self._claim_next()
            if number is not None:
                self._pending.append(number)
        return len(self._pending)

    def mark_done(self, number: int) -> bool:
        """A worker finished a shard: it is on disk, and nobody needs its claim."""
        news = super().mark_done(number)
        self._claims.release(claim_name(number))
        return news

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
        self._claims.release(name)  # done between the look and the claim
        self._open.discard(number)
        return False

    def _begin_pass(self) -> bool:
        """Look for shards that nobody works on; False when it is too early to look again."""
        if self._clock() < self._next_pass or not self._open:
            return False
        self._next_pass = self._clock() + PASS_SECONDS
        claimed = self._claims.listed()
        stale = self._stale(claimed)
        free = [number for number in sorted(self._open) if claim_name(number) not in claimed - stale]
        self._chance.shuffle(free)
        self._candidates = iter(free)
        return True

    def _stale(self, claimed: set[str]) -> set[str]:
        """Claims whose lease ran out; each look costs a question per claim, so it is not repeated soon."""
        if self._clock() < self._next_stale:
            return set()
        self._next_stale = self._clock() + self._claims.lease / LOOKS_PER_LEASE
        return set(self._claims.stale(claimed.difference(self._claims.held())))


def claim_name(shard: int) -> str:
    """The claim on a shard."""
    return f"{shard:05d}"
