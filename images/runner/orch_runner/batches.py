"""Read shards from the queue folder, cut them into batches, decode images ahead of the predictor."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Callable, Deque, Dict, Iterable, Iterator, List, Optional, Set, Tuple, Union

import numpy as np

from orch_runner.contract import ImageRef, JobRefused, QueuedShard, RunnerJob, read_queued_shard
from orch_runner.decode import decode_content
from orch_runner.decode_pool import DecodePool, DecodeTask, Reserve
from orch_runner.events import log
from orch_runner.image_file import NO_DIGEST, DecodeError, read_image_file
from orch_runner.liveness import Liveness
from orch_runner.shard_file import read_part
from orch_runner.shard_rows import ShardRow

FIRST_POLL_SECONDS, POLL_SECONDS = 0.001, 0.01
"""Pauses between looks at the queue: the first one, since a host answers quickly, and the longest."""
AHEAD_BYTES = 256 << 20
"""Most bytes of decoded images that wait for the predictor, beyond the batch that it asks for; one image at least."""


@dataclass(eq=False)
class Shard:
    """A shard in progress: its description and its finished rows by position."""

    queued: QueuedShard
    rows: Dict[int, ShardRow] = field(default_factory=dict)
    reused: int = 0
    started: float = 0.0
    saved: int = 0
    """Rows in the part file."""

    @property
    def number(self) -> int:
        """Return the shard's number in the run."""
        return self.queued.number

    @property
    def is_complete(self) -> bool:
        """Return whether every image has its row."""
        return len(self.rows) == len(self.queued.images)

    def leading_rows(self) -> List[ShardRow]:
        """Return the rows before the first missing one."""
        rows: List[ShardRow] = []
        while len(rows) in self.rows:
            rows.append(self.rows[len(rows)])
        return rows


@dataclass(eq=False)
class DecodedFile:
    """The pixels of an image, and the digest of its file."""

    pixels: np.ndarray
    sha256: bytes


Decoded = Union[DecodedFile, DecodeError]
ShardImage = Tuple[int, ImageRef]
"""The position of an image in its shard, and the image."""


@dataclass(eq=False)
class Batch:
    """Images of one shard that are predicted together; `decoded` waits for their pixels or errors, one by one."""

    shard: Shard
    images: List[ShardImage]
    decoded: Callable[[], Iterator[Decoded]]


class ShardQueue:
    """The queue folder: new shards by number, the end mark, and whether the host is alive.

    `careful`: take only careful shards (True), only other shards (False) or both (None). `seen`: files already taken.
    """

    def __init__(
        self, job: RunnerJob, batch_size: int, careful: Optional[bool] = None, seen: Optional[Iterable[str]] = None
    ) -> None:
        self._job, self._batch_size, self._careful = job, batch_size, careful
        self.seen: Set[str] = set(seen or ())
        self._host = Liveness(job.queue / "alive", job.alive_timeout)
        self.has_ended = False
        self.is_other_kind = False
        """Whether the next shard is of the kind that is not taken here."""

    def take_next(self) -> Optional[Shard]:
        """Return the next shard; None if there is none now. Raises JobRefused when it cannot be read."""
        # Checked before listing: a listing made after the end mark exists shows all shards.
        has_end_mark = (self._job.queue / "end").exists()
        try:
            names = [path.name for path in self._job.queue.iterdir()]
        except OSError:  # the host deleted the folder; is_abandoned() reports that
            return None
        waiting = [name for name in names if name.endswith(".json") and name not in self.seen]
        if not waiting:
            self.has_ended = has_end_mark
            return None
        first = min(waiting)
        try:
            queued = read_queued_shard(self._job.queue / first)
        except JobRefused:
            if (self._job.queue / first).exists():
                raise
            return None  # the host has just withdrawn it, for another worker
        self.is_other_kind = self._careful is not None and queued.careful != self._careful
        if self.is_other_kind:
            return None
        self.seen.add(first)
        return self._add_part(Shard(queued))

    def _add_part(self, shard: Shard) -> Shard:
        """Add the rows of a part file, in whole batches: an image must keep its batch mates."""
        files = [image.file for image in shard.queued.images]
        rows = read_part(self._job, shard.number, files)
        if len(rows) < len(files):
            rows = rows[: len(rows) - len(rows) % self._batch_size]
        shard.rows.update(enumerate(rows))
        shard.reused = shard.saved = len(rows)
        return shard

    def is_abandoned(self) -> bool:
        """Return whether the host has not touched the file `alive` within the timeout."""
        return self._host.has_timed_out()


class BatchStream:
    """Turn the queue into a stream of batches; decode ahead while the predictor works."""

    def __init__(self, job: RunnerJob, queue: ShardQueue, decoder: str, color: str, batch_size: int) -> None:
        self._job, self._queue = job, queue
        self._decoder, self._color, self._batch_size = decoder, color, batch_size
        self._pool: DecodePool[Decoded] = DecodePool(job.readers, job.decode_timeout, AHEAD_BYTES)
        self._ahead = -(-2 * job.readers // batch_size) + 1
        self._planned: Iterator[Tuple[Shard, List[ShardImage]]] = iter(())
        self.outcome = "stopped"
        """Why the stream ended: "all done", "stopped", "the host is gone" or "handed over" (to another process)."""

    def read(self, is_stopping: Callable[[], bool]) -> Iterator[Union[Batch, Shard, None]]:
        """Yield each new shard once, then its batches; None whenever there is nothing to do."""
        ready: Deque[Batch] = deque()
        checked, pause = time.monotonic(), FIRST_POLL_SECONDS
        while not is_stopping():
            if time.monotonic() - checked > 1:
                checked = time.monotonic()
                if self._queue.is_abandoned():
                    self.outcome = "the host is gone"
                    return
            while len(ready) < self._ahead and not (ready and ready[-1].shard.queued.careful):
                planned = next(self._planned, None)
                if planned is not None:
                    ready.append(self._make_batch(*planned))
                    continue
                shard = self._queue.take_next()
                if shard is None:
                    break
                yield shard
                self._planned = iter(self._cut(shard))
            if ready:
                pause = FIRST_POLL_SECONDS
                yield ready.popleft()
            elif self._queue.has_ended:
                self.outcome = "all done"
                return
            elif self._queue.is_other_kind:
                self.outcome = "handed over"
                return
            else:
                yield None
                time.sleep(pause)
                pause = min(POLL_SECONDS, 2 * pause)

    def close(self) -> None:
        """Stop decoding; drop the images that were not yielded."""
        self._pool.close()

    def _cut(self, shard: Shard) -> List[Tuple[Shard, List[ShardImage]]]:
        """Cut by position, so that workers, retries and resumption never change an image's batch mates."""
        queued = shard.queued
        chunks: List[Tuple[Shard, List[ShardImage]]] = []
        for start in range(0, len(queued.images), self._batch_size):
            chunk = [
                (position, image)
                for position, image in enumerate(queued.images[start : start + self._batch_size], start)
                if position not in shard.rows and image.index not in queued.skip
            ]
            together = [item for item in chunk if item[1].index not in queued.alone]
            alone = [[item] for item in chunk if item[1].index in queued.alone]
            chunks += [(shard, images) for images in [together, *alone] if images]
        return chunks

    def _make_batch(self, shard: Shard, images: List[ShardImage]) -> Batch:
        if shard.queued.careful:
            # Decoded only after the batch is announced: decoding, too, can kill a worker.
            return Batch(shard, images, lambda: (self._wait(self._start(ref)) for _, ref in images))
        tasks = [self._start(ref) for _, ref in images]

        def decoded() -> Iterator[Decoded]:
            self._pool.need(tasks)
            return map(self._wait, tasks)

        return Batch(shard, images, decoded)

    def _start(self, ref: ImageRef) -> "DecodeTask[Decoded]":
        return self._pool.submit(lambda reserve: self._decode(ref, reserve))

    def _wait(self, task: "DecodeTask[Decoded]") -> Decoded:
        decoded = self._pool.wait(task)
        limit = self._job.decode_timeout
        return DecodeError(f"not decoded within the limit of {limit:g} s") if decoded is None else decoded

    def _decode(self, ref: ImageRef, reserve: Reserve) -> Decoded:
        sha256 = NO_DIGEST
        try:
            file = read_image_file(self._job.data / ref.path, self._job.max_file_bytes, ref.size, ref.mtime_ns)
            sha256 = file.sha256
            pixels = decode_content(
                file.data, self._decoder, self._color, self._job.exif, self._job.max_pixels, reserve
            )
            return DecodedFile(pixels, sha256)
        except DecodeError as error:
            return DecodeError(str(error), sha256)
        except MemoryError:
            return DecodeError("not enough memory to decode", sha256)
        except Exception as error:  # whatever a decoder raises, it must not cost the other images
            log(f"{ref.file}: {error!r}")
            return DecodeError(f"cannot be decoded: {type(error).__name__}: {error}", sha256)
