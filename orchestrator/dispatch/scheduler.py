"""Which shard goes to which worker, and what becomes of it when the worker is lost. Pure: no clock, no process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.inputs.collect import InputImage
from orchestrator.runtimes.guest_contract import ShardOrder

QUEUED_PER_WORKER = 2
"""One shard under way and one waiting, so that a worker never idles between shards."""
SHARDS_PER_WORKER_AT_THE_END = 1
"""When no more shards are left than workers: what waited behind a long shard would be what the run ends with."""
DEATHS_TO_BLAME = 2
"""An image is given up after so many workers died with it, and it alone, in their hands."""
MOST_DEATHS = 6
"""A shard whose workers die so often without an image to blame ends the run."""

ImagesOf = Callable[[int], Sequence[InputImage]]


@dataclass
class _History:
    """What is known of a shard's earlier attempts."""

    careful: bool = False
    deaths: int = 0
    blamed: dict[int, int] = field(default_factory=dict)
    skip: dict[int, str] = field(default_factory=dict)
    alone: set[int] = field(default_factory=set)


def dear_first(shards: Iterable[int], bytes_of: Callable[[int], int]) -> list[int]:
    """Shards in the order to hand them out: those of many bytes first, so that none of them is what a run ends with."""
    return sorted(shards, key=lambda number: (-bytes_of(number), number))


class Schedule:
    """The shards of a run that are not done yet. `images_of` gives a shard's images by its number."""

    def __init__(self, shards: Iterable[int], images_of: ImagesOf) -> None:
        self._pending = deque(shards)
        self._open = set(self._pending)
        self._images_of = images_of
        self._assigned: dict[str, list[int]] = {}
        self._history: dict[int, _History] = {}

    @property
    def remaining(self) -> int:
        """Shards that are not done."""
        return len(self._open)

    @property
    def may_get_more(self) -> bool:
        """Whether shards that nobody has may turn up without a worker being lost: where others share them."""
        return False

    @property
    def pending(self) -> int:
        """Shards that no worker has."""
        return len(self._pending)

    def assigned(self, worker: str) -> tuple[int, ...]:
        """The shards a worker has, in the order they were given."""
        return tuple(self._assigned.get(worker, ()))

    def join(self, worker: str) -> None:
        """A worker was started: shards are shared with it from now on."""
        self._assigned.setdefault(worker, [])

    def leave(self, worker: str) -> None:
        """A worker that has no shards was ended."""
        self._assigned.pop(worker, None)

    def next_for(self, worker: str) -> ShardOrder | None:
        """The next shard for a worker that has room in its queue; None when there is none or no room."""
        self.join(worker)
        mine = self._assigned[worker]
        enough = len(self._assigned) == 1 or len(self._pending) > len(self._assigned)
        room = (QUEUED_PER_WORKER if enough else SHARDS_PER_WORKER_AT_THE_END) - len(mine)
        number = self._take() if room > 0 else None
        if number is None:
            return None
        mine.append(number)
        history = self._history.get(number, _History())
        return ShardOrder(
            number, self._images_of(number), dict(history.skip), history.careful, frozenset(history.alone)
        )

    def _take(self) -> int | None:
        """The next shard to hand out; None when there is none now."""
        return self._pending.popleft() if self._pending else None

    def take_back(self, worker: str, number: int) -> None:
        """A shard that a worker has not begun is for others again."""
        self._assigned[worker].remove(number)
        self._pending.appendleft(number)

    def done(self, number: int) -> bool:
        """A shard is finished, whoever did it; False if that is known already."""
        if number not in self._open:
            return False
        self._open.remove(number)
        for held in (self._pending, *self._assigned.values()):
            if number in held:
                held.remove(number)
        return True

    def lost(self, worker: str, under_way: int | None, batch: Sequence[int], reason: str) -> bool:
        """A worker is gone: its shards go back, to the front and in order.

        `under_way` is the shard it had begun, `batch` the images it had announced last. All of them come back as
        careful ones: images are decoded ahead, so the one that did it may be of the next shard. False when the shard
        under way has cost too many workers to go on.
        """
        mine = sorted(self._assigned.pop(worker, []))
        self._pending.extendleft(reversed(mine))
        if under_way is not None:
            for number in mine:
                self._history.setdefault(number, _History()).careful = True
        if under_way is None or under_way not in mine:
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
