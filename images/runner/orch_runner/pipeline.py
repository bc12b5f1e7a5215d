"""The runner's main loop: predict batches, finish predictions in threads, write whole shards."""

from __future__ import annotations

import time
import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Deque, List, Optional, Tuple

from orch_runner import probability
from orch_runner.batches import Batch, BatchStream, Shard
from orch_runner.contract import Fatal, ImageRef, RunnerJob
from orch_runner.events import Emitter, bind_log, bound_log, log
from orch_runner.image_file import NO_DIGEST, DecodeError
from orch_runner.limits import describe_error, is_out_of_memory
from orch_runner.predictor import Image, Predictor
from orch_runner.shard_file import remove_part, write_rows
from orch_runner.shard_rows import ShardRow, make_failed_row, make_row

PROGRESS_SECONDS = 0.2
FINISHING_BYTES = 256 << 20
"""Most bytes of images that were predicted and wait to be finished, beyond one batch."""

# What a stack may raise on an image. Upstream code that calls sys.exit() must not end the worker.
FAILURES = (Exception, SystemExit)


@dataclass
class _Failure:
    """The facts of an exception; keeping the exception itself would keep its frames' tensors alive."""

    reason: str
    is_out_of_memory: bool


DecodedImage = Tuple[int, ImageRef, Image, bytes]
"""The position of an image in its shard, the image, its pixels, and the digest of its file."""


class Pipeline:
    """Predict shard after shard; a failing image costs no other image."""

    def __init__(self, job: RunnerJob, predictor: Predictor, emitter: Emitter, batch_size: int) -> None:
        self._job, self._predictor, self._emitter = job, predictor, emitter
        self._batch_limit = batch_size
        self._finishers = ThreadPoolExecutor(job.readers, "finish", initializer=bind_log, initargs=(bound_log(),))
        self._pending: Deque[Tuple[Shard, int, ImageRef, int, "Future[ShardRow]"]] = deque()
        self._pending_bytes = 0
        self._open: List[Shard] = []
        self._progress_at = 0.0
        self._parts_at = time.monotonic()

    def run(self, batches: BatchStream, is_stopping: Callable[[], bool]) -> None:
        """Work until the stream ends; however it ends, unfinished shards are saved as parts."""
        try:
            for item in batches.read(is_stopping):
                if item is None:
                    self._collect(0)
                elif isinstance(item, Shard):
                    self._begin(item)
                else:
                    self._predict(item)
                    self._collect_ready()
                    self._save_parts_if_due()
            self._collect(0)
        except BaseException:
            self._save_before_failing()
            raise
        self._save_parts()

    def close(self) -> None:
        """Release the threads."""
        self._finishers.shutdown(wait=False)

    def _save_before_failing(self) -> None:
        """Save what is finished while an exception propagates; log the errors of that."""
        try:
            self._collect(0)
        except Exception as error:
            log(f"lost the pending images: {error!r}")
        try:
            self._save_parts()
        except Exception as error:
            log(f"cannot save the finished images: {error!r}")

    def _save_parts(self) -> None:
        for shard in self._open:
            rows = shard.leading_rows()
            if len(rows) > shard.saved:
                write_rows(self._job, shard.number, rows, part=True)
                shard.saved = len(rows)
                log(f"shard {shard.number}: saved {len(rows)} of {len(shard.queued.images)} images")

    def _save_parts_if_due(self) -> None:
        """Save parts every `part_every` seconds, so that a killed worker loses no more work than that."""
        now = time.monotonic()
        if now - self._parts_at >= self._job.part_every:
            self._parts_at = now
            self._save_parts()

    def _begin(self, shard: Shard) -> None:
        shard.started = time.monotonic()
        self._open.append(shard)
        self._emitter.emit("shard_started", shard=shard.number, images=len(shard.queued.images), reused=shard.reused)
        for position, ref in enumerate(shard.queued.images):
            if ref.index in shard.queued.skip and position not in shard.rows:
                self._fail(shard, position, ref, shard.queued.skip[ref.index])
        self._finish_shard_if_complete(shard)

    def _predict(self, batch: Batch) -> None:
        shard = batch.shard
        if shard.queued.careful:
            # Earlier images must be finished before this batch is announced as the only work in progress.
            self._collect(0)
            self._emitter.emit("batch", shard=shard.number, indices=[ref.index for _, ref in batch.images])
        waiting: List[DecodedImage] = []
        for (position, ref), decoded in zip(batch.images, batch.decoded()):
            if isinstance(decoded, DecodeError):
                self._fail(shard, position, ref, str(decoded), sha256=decoded.sha256)
            else:
                waiting.append((position, ref, Image(ref.file, decoded.pixels), decoded.sha256))
        while waiting:
            images, waiting = waiting[: self._batch_limit], waiting[self._batch_limit :]
            failure = self._try_predict(shard, images)
            if failure is None:
                continue
            if failure.is_out_of_memory and len(images) > 1:
                self._batch_limit = len(images) // 2
                self._emitter.emit("notice", message=f"out of memory: batches of {self._batch_limit} from now on")
                waiting = images + waiting
            else:
                self._isolate_failure(shard, images, failure)
        self._finish_shard_if_complete(shard)

    def _try_predict(self, shard: Shard, images: List[DecodedImage]) -> Optional[_Failure]:
        """Predict images together; return the failure, if any. Raises Fatal when the device is lost."""
        try:
            raws = self._predictor.predict([image for _, _, image, _ in images])
            if len(raws) != len(images):
                raise ValueError(f"the predictor gave {len(raws)} results for {len(images)} images")
        except FAILURES as error:  # whatever a model raises on an image must not cost the other images
            _raise_if_device_lost(error)
            log(f"{', '.join(ref.file for _, ref, _, _ in images)}:\n{traceback.format_exc()}")
            return _Failure(describe_error(error), is_out_of_memory(error))
        for (position, ref, image, sha256), raw in zip(images, raws):
            future = self._finishers.submit(self._finish, shard.number, ref, image, sha256, raw)
            self._pending.append((shard, position, ref, image.pixels.nbytes, future))
            self._pending_bytes += image.pixels.nbytes
        return None

    def _isolate_failure(self, shard: Shard, images: List[DecodedImage], failure: _Failure) -> None:
        """Predict each image of a failed batch alone, so that only those that cause the failure fail."""
        for item in images:
            alone: Optional[_Failure] = failure if len(images) == 1 else self._try_predict(shard, [item])
            if alone is not None:
                position, ref, image, sha256 = item
                self._fail(shard, position, ref, alone.reason, image, sha256)
            self._collect_ready()  # so that the host sees that this batch goes on

    def _finish(self, shard: int, ref: ImageRef, image: Image, sha256: bytes, raw: Any) -> ShardRow:
        size = _size(image)
        try:
            prediction = self._predictor.finish(raw, image)
            if self._job.pixels == probability.PIXELS:
                pixels = probability.check_probability(prediction.probability, *size)
                if prediction.canvas is not None:
                    probability.write_canvas(self._job, shard, ref.index, prediction.canvas)
                prediction = probability.make_instance(self._job, prediction, pixels)
                probability.write_picture(self._job, shard, ref.index, pixels)
            return make_row(self._job, ref.file, size, prediction, sha256)
        except FAILURES as error:  # as in _try_predict
            _raise_if_device_lost(error)
            log(f"{ref.file}:\n{traceback.format_exc()}")
            return make_failed_row(ref.file, describe_error(error), size, sha256)

    def _collect_ready(self) -> None:
        self._collect(2 * self._batch_limit + self._job.readers)

    def _collect(self, limit: int) -> None:
        """Store finished rows, in order; wait until at most `limit`, of at most FINISHING_BYTES, are pending."""
        while self._pending and (
            len(self._pending) > limit or self._pending_bytes > FINISHING_BYTES or self._pending[0][-1].done()
        ):
            shard, position, ref, size, future = self._pending.popleft()
            self._pending_bytes -= size
            self._store(shard, position, ref, future.result())
            self._finish_shard_if_complete(shard)

    def _fail(
        self,
        shard: Shard,
        position: int,
        ref: ImageRef,
        reason: str,
        image: Optional[Image] = None,
        sha256: bytes = NO_DIGEST,
    ) -> None:
        size = (0, 0) if image is None else _size(image)
        self._store(shard, position, ref, make_failed_row(ref.file, reason, size, sha256))

    def _store(self, shard: Shard, position: int, ref: ImageRef, row: ShardRow) -> None:
        shard.rows[position] = row
        if row.error:
            self._emitter.emit("image_failed", shard=shard.number, index=ref.index, file=ref.file, error=row.error)
        now = time.monotonic()
        if now - self._progress_at > PROGRESS_SECONDS:
            self._progress_at = now
            total = len(shard.queued.images)
            self._emitter.emit("progress", shard=shard.number, done=len(shard.rows), total=total)

    def _finish_shard_if_complete(self, shard: Shard) -> None:
        if not shard.is_complete or shard not in self._open:
            return
        rows = shard.leading_rows()
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


def _raise_if_device_lost(error: BaseException) -> None:
    """Raise Fatal for errors after which no further kernel runs in this process."""
    text = str(error)
    sticky = ("CUDA error", "CUDA failure", "device-side assert", "cudaErrorIllegalAddress", "CUDNN_STATUS_EXECUTION")
    if isinstance(error, Fatal):
        raise error
    if any(sign in text for sign in sticky) and not is_out_of_memory(error):
        raise Fatal("device", 4, f"the device failed: {text}") from error
