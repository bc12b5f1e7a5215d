"""Which shard goes to which worker, and what happens to it when the worker is lost. Pure: no clock, no process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.inputs import InputImage
from orchestrator.runtimes import ShardOrder

QUEUED_PER_WORKER = 2
"""One shard being predicted and one waiting, so that a worker never idles between shards."""
QUEUED_AT_THE_END = 1
"""Shards per worker when no more are left than workers: a shard queued behind a long one would end the run late."""
DEATHS_TO_BLAME = 2
"""An image is skipped after this many workers died while they predicted it alone."""
MOST_REFUSALS = 4
"""All images of a shard fail once its result was refused this often, or was refused again for nothing new."""
MOST_DEATHS = 6
"""A shard that this many workers died on, without an image to blame, ends the run."""

ImagesOf = Callable[[int], Sequence[InputImage]]
"""Returns a shard's images by the shard's number."""


@dataclass
class _History:
    """Earlier attempts at a shard; `skip`, `careful` and `alone` are those of the guest contract."""

    careful: bool = False
    deaths: int = 0
    blamed: dict[int, int] = field(default_factory=dict)
    """Workers that died, by the image that they predicted alone."""
    skip: dict[int, str] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)
    refusals: int = 0
    """How often a worker's result was refused."""


def sort_largest_first(shards: Iterable[int], bytes_of: Callable[[int], int]) -> list[int]:
    """Sort shards by falling size in bytes, so that a run does not end with a large one."""
    return sorted(shards, key=lambda number: (-bytes_of(number), number))


class Scheduler:
    """The unfinished shards of a run, and the workers that have them."""

    def __init__(self, shards: Iterable[int], images_of: ImagesOf) -> None:
        self._pending = deque(shards)
        self._open = set(self._pending)
        self._images_of = images_of
        self._assigned: dict[str, list[int]] = {}
        self._history: dict[int, _History] = {}

    @property
    def remaining(self) -> int:
        """Return the number of unfinished shards."""
        return len(self._open)

    @property
    def can_get_more(self) -> bool:
        """Return whether shards may become pending that other machines have now."""
        return False

    @property
    def pending(self) -> int:
        """Return the number of shards that no worker has."""
        return len(self._pending)

    def shards_of(self, worker: str) -> tuple[int, ...]:
        """Return the shards that a worker has, in the order in which they were assigned."""
        return tuple(self._assigned.get(worker, ()))

    def add_worker(self, worker: str) -> None:
        """Count a started worker: how many shards the others may queue depends on the number of workers."""
        self._assigned.setdefault(worker, [])

    def remove_worker(self, worker: str) -> None:
        """Forget a worker that has no shards and has ended."""
        self._assigned.pop(worker, None)

    def assign_next(self, worker: str) -> ShardOrder | None:
        """Assign the next shard to a worker; None when its queue is full or no shard is pending."""
        self.add_worker(worker)
        assigned = self._assigned[worker]
        enough = len(self._assigned) == 1 or len(self._pending) > len(self._assigned)
        limit = QUEUED_PER_WORKER if enough else QUEUED_AT_THE_END
        number = self._take() if len(assigned) < limit else None
        if number is None:
            return None
        assigned.append(number)
        history = self._history.get(number, _History())
        images, alone = self._images_of(number), frozenset(history.alone)
        return ShardOrder(number, images, dict(history.skip), history.careful, alone, history.refusals)

    def _take(self) -> int | None:
        """Take the next pending shard; None when there is none now."""
        return self._pending.popleft() if self._pending else None

    def take_back(self, worker: str, number: int) -> None:
        """Take a shard that a worker has not begun back, for another worker."""
        self._assigned[worker].remove(number)
        self._pending.appendleft(number)

    def mark_done(self, number: int) -> bool:
        """Mark a shard as finished, by whichever worker; False if it was marked before."""
        if number not in self._open:
            return False
        self._open.remove(number)
        for shards in (self._pending, *self._assigned.values()):
            if number in shards:
                shards.remove(number)
        return True

    def record_refusal(self, worker: str, number: int, reasons: Mapping[int, str]) -> bool:
        """Take back a shard whose result was refused, to be predicted again; False if it must not be.

        `reasons`: why, by image; empty if the fault belongs to no image. The first time it comes back as a careful
        shard; after that, the images at fault are skipped with their reasons.
        """
        assigned = self._assigned.get(worker, [])
        if number not in self._open or number not in assigned:
            return True  # it is done, or another worker has it
        history = self._history.setdefault(number, _History())
        history.refusals += 1
        history.careful = True
        if history.refusals > 1:
            at_fault = {image: reason for image, reason in reasons.items() if image not in history.skip}
            if not at_fault or history.refusals >= MOST_REFUSALS:
                return False
            history.skip.update(at_fault)
        assigned.remove(number)
        self._pending.appendleft(number)
        return True

    def record_loss(self, worker: str, under_way: int | None, batch: Sequence[int], reason: str) -> bool:
        """Return a lost worker's shards to the front of the pending ones, in order.

        `under_way` is the shard that it had begun, `batch` the images that it announced last. All its shards come back
        as careful ones: images are decoded ahead, so the one that killed it may be of the next shard. False when the
        shard under way has cost too many workers to continue.
        """
        shards = sorted(self._assigned.pop(worker, []))
        self._pending.extendleft(reversed(shards))
        if under_way is not None:
            for number in shards:
                self._history.setdefault(number, _History()).careful = True
        if under_way is None or under_way not in shards:
            return True
        history = self._history.setdefault(under_way, _History())
        history.deaths += 1
        if len(batch) == 1:
            image = batch[0]
            history.blamed[image] = history.blamed.get(image, 0) + 1
            if history.blamed[image] >= DEATHS_TO_BLAME:
                history.skip[image] = f"the worker died on this image ({reason})"
                history.deaths = 1
        elif batch:
            history.alone.update(batch)
        return history.deaths < MOST_DEATHS
