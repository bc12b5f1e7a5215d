"""What comes in: shards from the queue folder, cut into batches, decoded ahead of the predictor by threads."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Callable, Deque, Dict, Iterable, Iterator, List, Optional, Set, Tuple, Union

import numpy as np

from orch_runner.contract import ImageRef, Job, JobRefused, ShardOrder, read_shard_order
from orch_runner.decode import DecodeError, decode
from orch_runner.events import bind_log, bound_log, log
from orch_runner.liveness import SignOfLife
from orch_runner.shard_file import read_part
from orch_runner.shard_rows import Row

POLL_SECONDS = 0.01


@dataclass(eq=False)
class Shard:
    """A shard under way: its order and the rows that are there so far, by position."""

    order: ShardOrder
    rows: Dict[int, Row] = field(default_factory=dict)
    reused: int = 0
    started: float = 0.0
    kept: int = 0
    """Rows in the part on disk."""

    @property
    def number(self) -> int:
        """The shard's number in the run."""
        return self.order.number

    @property
    def complete(self) -> bool:
        """Whether every image has its row."""
        return len(self.rows) == len(self.order.images)

    def prefix(self) -> List[Row]:
        """The rows from the first image up to the first one that is missing."""
        rows: List[Row] = []
        while len(rows) in self.rows:
            rows.append(self.rows[len(rows)])
        return rows


Decoded = Union[np.ndarray, DecodeError]
Place = Tuple[int, ImageRef]


@dataclass(eq=False)
class Batch:
    """Images of one shard that are predicted together. `decoded` waits for their pixels, or the reasons why not."""

    shard: Shard
    places: List[Place]
    decoded: Callable[[], List[Decoded]]


class Queue:
    """The queue folder: new shards in the order of their numbers, its end, and whether the host is still there.

    With `careful` given, only shards that are careful, or only those that are not, are taken from it; `seen` are the
    files that were taken before.
    """

    def __init__(
        self, job: Job, batch_size: int, careful: Optional[bool] = None, seen: Optional[Iterable[str]] = None
    ) -> None:
        self._job, self._batch_size, self._careful = job, batch_size, careful
        self.seen: Set[str] = set(seen or ())
        self._host = SignOfLife(job.queue / "alive", job.alive_timeout)
        self.ended = False
        self.other_kind = False
        """The next shard is none of those to be taken here."""

    def next(self) -> Optional[Shard]:
        """The next shard, if one lies there. Raises JobRefused when it cannot be read."""
        # Asked for first: a listing made after the end was there shows all that was put there before it.
        ended = (self._job.queue / "end").exists()
        try:
            names = [path.name for path in self._job.queue.iterdir()]
        except OSError:  # the host took the folder away; abandoned() will say so
            return None
        waiting = [name for name in names if name.endswith(".json") and name not in self.seen]
        if not waiting:
            self.ended = ended
            return None
        first = min(waiting)
        try:
            order = read_shard_order(self._job.queue / first)
        except JobRefused:
            if (self._job.queue / first).exists():
                raise
            return None  # the host took it back at this very moment, for another worker
        self.other_kind = self._careful is not None and order.careful != self._careful
        if self.other_kind:
            return None
        self.seen.add(first)
        return self._with_part(Shard(order))

    def _with_part(self, shard: Shard) -> Shard:
        """Add what an interrupted runner left, in whole batches: an image's batch mates must stay the same."""
        files = [image.file for image in shard.order.images]
        rows = read_part(self._job, shard.number, files)
        if len(rows) < len(files):
            rows = rows[: len(rows) - len(rows) % self._batch_size]
        shard.rows.update(enumerate(rows))
        shard.reused = shard.kept = len(rows)
        return shard

    def abandoned(self) -> bool:
        """Whether the host has not touched its sign of life for too long."""
        return self._host.gone()


class Intake:
    """Turns the queue into a stream of batches, decoding ahead while the predictor works."""

    def __init__(self, job: Job, queue: Queue, decoder: str, color: str, batch_size: int) -> None:
        self._job, self._queue = job, queue
        self._decoder, self._color, self._batch_size = decoder, color, batch_size
        self._pool = ThreadPoolExecutor(job.readers, "decode", initializer=bind_log, initargs=(bound_log(),))
        self._ahead = -(-2 * job.readers // batch_size) + 1
        self._plan: Iterator[Tuple[Shard, List[Place]]] = iter(())
        self.outcome = "stopped"
        """Why the stream ended: "all done", "stopped", "the host is gone" or "handed over" (the next is not ours)."""

    def stream(self, stopping: Callable[[], bool]) -> Iterator[Union[Batch, Shard, None]]:
        """Yields each new shard once, then its batches; None whenever there is nothing to do at the moment."""
        window: Deque[Batch] = deque()
        checked = time.monotonic()
        while not stopping():
            if time.monotonic() - checked > 1:
                checked = time.monotonic()
                if self._queue.abandoned():
                    self.outcome = "the host is gone"
                    return
            while len(window) < self._ahead and not (window and window[-1].shard.order.careful):
                planned = next(self._plan, None)
                if planned is not None:
                    window.append(self._batch(*planned))
                    continue
                shard = self._queue.next()
                if shard is None:
                    break
                yield shard
                self._plan = iter(self._cut(shard))
            if window:
                yield window.popleft()
            elif self._queue.ended:
                self.outcome = "all done"
                return
            elif self._queue.other_kind:
                self.outcome = "handed over"
                return
            else:
                yield None
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Stop decoding; images not yet handed out are forgotten."""
        self._pool.shutdown(wait=False)

    def _cut(self, shard: Shard) -> List[Tuple[Shard, List[Place]]]:
        """Cut by position, so that an image's batch mates never depend on workers, retries or resumption."""
        order = shard.order
        chunks: List[Tuple[Shard, List[Place]]] = []
        for start in range(0, len(order.images), self._batch_size):
            chunk = [
                (at, image)
                for at, image in enumerate(order.images[start : start + self._batch_size], start)
                if at not in shard.rows and image.index not in order.skip
            ]
            together = [place for place in chunk if place[1].index not in order.alone]
            alone = [[place] for place in chunk if place[1].index in order.alone]
            chunks += [(shard, places) for places in [together, *alone] if places]
        return chunks

    def _batch(self, shard: Shard, places: List[Place]) -> Batch:
        if shard.order.careful:
            # Nothing is decoded before it was announced: decoding too can be what kills a worker.
            return Batch(shard, places, lambda: [self._decode(ref) for _, ref in places])
        futures: List["Future[Decoded]"] = [self._pool.submit(self._decode, ref) for _, ref in places]
        return Batch(shard, places, lambda: [future.result() for future in futures])

    def _decode(self, ref: ImageRef) -> Decoded:
        try:
            path = self._job.data / ref.path
            return decode(path, self._decoder, self._color, self._job.exif, self._job.max_pixels)
        except DecodeError as error:
            return error
        except MemoryError:
            return DecodeError("not enough memory to decode")
        except Exception as error:  # an image must not cost the others, whatever its decoder raises
            log(f"{ref.file}: {error!r}")
            return DecodeError(f"cannot be decoded: {type(error).__name__}: {error}")
