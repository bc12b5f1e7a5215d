"""The runner's main loop: batches in, predictions finished and encoded by threads, whole shards out."""

from __future__ import annotations

import time
import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Deque, List, Optional, Tuple

from orch_runner import probability
from orch_runner.batches import Batch, Intake, Shard
from orch_runner.contract import Fatal, ImageRef, Job
from orch_runner.decode import DecodeError
from orch_runner.events import Emitter, bind_log, bound_log, log
from orch_runner.predictor import Image, Predictor
from orch_runner.shard_file import remove_part, write_rows
from orch_runner.shard_rows import Row, failed_row, make_row

PROGRESS_SECONDS = 0.2

# What a stack may raise on an image. Upstream code that calls sys.exit() is no reason to leave.
FAILURES = (Exception, SystemExit)


@dataclass
class _Failure:
    """What is kept of an exception: holding on to the exception itself would keep its frames' tensors alive."""

    reason: str
    out_of_memory: bool


Ready = Tuple[int, ImageRef, Image]


class Pipeline:
    """Predicts shard after shard; one image's failure costs that image alone."""

    def __init__(self, job: Job, predictor: Predictor, emitter: Emitter, batch_size: int) -> None:
        self._job, self._predictor, self._emitter = job, predictor, emitter
        self._limit = batch_size
        self._finishers = ThreadPoolExecutor(job.readers, "finish", initializer=bind_log, initargs=(bound_log(),))
        self._inflight: Deque[Tuple[Shard, int, ImageRef, "Future[Row]"]] = deque()
        self._open: List[Shard] = []
        self._announced = 0.0
        self._kept = time.monotonic()

    def run(self, intake: Intake, stopping: Callable[[], bool]) -> None:
        """Work until the intake ends; however it ends, unfinished shards are left as parts."""
        try:
            for item in intake.stream(stopping):
                if item is None:
                    self._settle(0)
                elif isinstance(item, Shard):
                    self._begin(item)
                else:
                    self._predict(item)
                    self._settle(2 * self._limit + self._job.readers)
                    self._keep_parts_now_and_then()
            self._settle(0)
        except BaseException:
            self._rescue()
            raise
        self._keep_parts()

    def close(self) -> None:
        """Release the threads."""
        self._finishers.shutdown(wait=False)

    def _rescue(self) -> None:
        """Keep what can be kept while a failure is on its way out."""
        try:
            self._settle(0)
        except Exception as error:
            log(f"lost the images under way: {error!r}")
        try:
            self._keep_parts()
        except Exception as error:
            log(f"could not keep the images done: {error!r}")

    def _keep_parts(self) -> None:
        for shard in self._open:
            rows = shard.prefix()
            if len(rows) > shard.kept:
                write_rows(self._job, shard.number, rows, part=True)
                shard.kept = len(rows)
                log(f"shard {shard.number}: kept {len(rows)} of {len(shard.order.images)} images")

    def _keep_parts_now_and_then(self) -> None:
        """So that a worker which is killed costs the work of a minute, not that of a large shard."""
        now = time.monotonic()
        if now - self._kept >= self._job.part_every:
            self._kept = now
            self._keep_parts()

    def _begin(self, shard: Shard) -> None:
        shard.started = time.monotonic()
        self._open.append(shard)
        self._emitter.emit("shard_started", shard=shard.number, images=len(shard.order.images), reused=shard.reused)
        for position, ref in enumerate(shard.order.images):
            if ref.index in shard.order.skip and position not in shard.rows:
                self._fail(shard, position, ref, shard.order.skip[ref.index])
        self._finish_shard_if_complete(shard)

    def _predict(self, batch: Batch) -> None:
        shard = batch.shard
        if shard.order.careful:
            # Earlier images must be out of the way before these are said to be the ones at work.
            self._settle(0)
            indices = [ref.index for _, ref in batch.places]
            self._emitter.emit("batch", shard=shard.number, indices=indices)
        ready: List[Ready] = []
        for (position, ref), decoded in zip(batch.places, batch.decoded()):
            if isinstance(decoded, DecodeError):
                self._fail(shard, position, ref, str(decoded))
            else:
                ready.append((position, ref, Image(ref.file, decoded)))
        while ready:
            some, ready = ready[: self._limit], ready[self._limit :]
            failure = self._attempt(shard, some)
            if failure is None:
                continue
            if failure.out_of_memory and len(some) > 1:
                self._limit = len(some) // 2
                self._emitter.emit("notice", message=f"out of memory: batches of {self._limit} from now on")
                ready = some + ready
            else:
                self._isolate(shard, some, failure)
        self._finish_shard_if_complete(shard)

    def _attempt(self, shard: Shard, some: List[Ready]) -> Optional[_Failure]:
        """Predict images together; None if that went well. Raises Fatal when the device is lost."""
        try:
            raws = self._predictor.predict([image for _, _, image in some])
            if len(raws) != len(some):
                raise ValueError(f"the predictor gave {len(raws)} results for {len(some)} images")
        except FAILURES as error:  # whatever a model raises on an image must not cost the other images
            _check_device(error)
            log(f"{', '.join(ref.file for _, ref, _ in some)}:\n{traceback.format_exc()}")
            return _Failure(_describe(error), out_of_memory(error))
        for (position, ref, image), raw in zip(some, raws):
            future = self._finishers.submit(self._finish, shard.number, ref, image, raw)
            self._inflight.append((shard, position, ref, future))
        return None

    def _isolate(self, shard: Shard, some: List[Ready], failure: _Failure) -> None:
        """Find out which images of a failed batch are to blame by predicting each alone."""
        for item in some:
            alone: Optional[_Failure] = failure if len(some) == 1 else self._attempt(shard, [item])
            if alone is not None:
                position, ref, image = item
                self._fail(shard, position, ref, alone.reason, image)

    def _finish(self, shard: int, ref: ImageRef, image: Image, raw: Any) -> Row:
        size = _size(image)
        try:
            prediction = self._predictor.finish(raw, image)
            if self._job.task == probability.TASK:
                pixels = probability.checked(prediction.probability, *size)
                prediction = probability.as_instance(self._job, prediction, pixels)
                probability.write_picture(self._job, shard, ref.index, pixels)
            return make_row(self._job, ref.file, size, prediction)
        except FAILURES as error:  # as in _attempt
            _check_device(error)
            log(f"{ref.file}:\n{traceback.format_exc()}")
            return failed_row(ref.file, _describe(error), size)

    def _settle(self, most: int) -> None:
        """Collect finished rows until at most `most` are under way."""
        while len(self._inflight) > most or (self._inflight and self._inflight[0][3].done()):
            shard, position, ref, future = self._inflight.popleft()
            self._store(shard, position, ref, future.result())
            self._finish_shard_if_complete(shard)

    def _fail(self, shard: Shard, position: int, ref: ImageRef, reason: str, image: Optional[Image] = None) -> None:
        size = (0, 0) if image is None else _size(image)
        self._store(shard, position, ref, failed_row(ref.file, reason, size))

    def _store(self, shard: Shard, position: int, ref: ImageRef, row: Row) -> None:
        shard.rows[position] = row
        if row.error:
            self._emitter.emit("image_failed", shard=shard.number, index=ref.index, file=ref.file, error=row.error)
        now = time.monotonic()
        if now - self._announced > PROGRESS_SECONDS:
            self._announced = now
            total = len(shard.order.images)
            self._emitter.emit("progress", shard=shard.number, done=len(shard.rows), total=total)

    def _finish_shard_if_complete(self, shard: Shard) -> None:
        if not shard.complete or shard not in self._open:
            return
        rows = shard.prefix()
        write_rows(self._job, shard.number, rows)
        remove_part(self._job, shard.number)
        self._open.remove(shard)
        self._emitter.emit(
            "shard_done",
            shard=shard.number,
            images=len(rows),
            failed=sum(1 for row in rows if row.error),
            instances=sum(len(row.scores) for row in rows),
            seconds=round(time.monotonic() - shard.started, 3),
        )


def _size(image: Image) -> Tuple[int, int]:
    return int(image.pixels.shape[0]), int(image.pixels.shape[1])


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def out_of_memory(error: BaseException) -> bool:
    """Whether a library says that the device's memory, or the machine's, is full."""
    name, text = type(error).__name__, str(error).lower()
    signs = ("out of memory", "oom when", "alloc_failed", "failed to allocate memory", "bad_alloc")
    named = isinstance(error, MemoryError) or "OutOfMemory" in name or "ResourceExhausted" in name
    return named or any(sign in text for sign in signs)


def _check_device(error: BaseException) -> None:
    """Raises Fatal for errors after which no further kernel runs in this process."""
    text = str(error)
    sticky = ("CUDA error", "CUDA failure", "device-side assert", "cudaErrorIllegalAddress", "CUDNN_STATUS_EXECUTION")
    if isinstance(error, Fatal):
        raise error
    if any(sign in text for sign in sticky) and not out_of_memory(error):
        raise Fatal("device", 4, f"the device failed: {text}") from error
