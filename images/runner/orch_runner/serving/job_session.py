"""A session: one job of the spool, served by a keeper as the runner would serve it alone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import IO, Any, Iterable, Optional, Set

from orch_runner.contract import read_job
from orch_runner.events import Emitter, bind_log
from orch_runner.memory import resident_mb
from orch_runner.worker import STOPPED, predict_queue, report_failure, say_hello, say_ready

DROPPED = 137
LOOK_SECONDS = 0.05


class _Stopped(Exception):
    """The job was to be stopped while its model was being loaded."""


class _Events(Emitter):
    """A job's events.jsonl, which may have been begun by another process."""

    def __init__(self, path: Path, sequence: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        super().__init__(self._file, sequence)
        self.images = 0

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event, and count the images of finished shards."""
        if event == "shard_done":
            self.images += fields["images"]
        super().emit(event, **fields)

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._over = True
        os.close(self._file)


class Session:
    """What a worker's main is to a process of its own, in a thread of a keeper."""

    def __init__(self, folder: Path, model: "Future[Any]", careful: bool, seen: Iterable[str], sequence: int) -> None:
        self._folder, self._model, self._careful = folder, model, careful
        self._events: Optional[_Events] = None
        self._stopping = threading.Event()
        self._dropped = False
        self.seen: Set[str] = set(seen)
        """The shards taken from the queue so far, here or by the keeper that had the job before."""
        self.sequence, self.images = sequence, 0
        self.failure: Optional[Exception] = None

    def stop(self, dropped: bool = False) -> None:
        """Finish the batch at hand and end. Dropped: what is written then does not matter."""
        self._dropped = self._dropped or dropped
        self._stopping.set()

    def beat(self) -> None:
        """Show the host that this process is alive."""
        events = self._events
        if events is not None:
            events.emit("heartbeat", rss_mb=resident_mb(os.getpid()))

    def run(self) -> Optional[int]:
        """Serve the job; the result is the exit status of the contract, None if another keeper is to go on."""
        try:
            with (self._folder / "worker.log").open("a", encoding="utf-8") as log:
                bind_log(log)
                events = self._events = _Events(self._folder / "events.jsonl", self.sequence)
                try:
                    return self._serve(events, log)
                finally:
                    self.sequence, self.images = events.sequence, events.images
                    events.close()
        except OSError:  # the host took the folder away
            return DROPPED
        finally:
            bind_log(None)

    def _serve(self, events: _Events, log: IO[str]) -> Optional[int]:
        del log
        try:
            outcome = self._predict(events)
        except _Stopped:
            outcome = "stopped while loading"
        except Exception as error:
            self.failure = error
            code = report_failure(events, error)
            events.emit("bye", reason="failed")
            return code
        if outcome == "handed over":
            return None
        events.emit("bye", reason=outcome)
        if self._dropped:
            return DROPPED
        return 0 if outcome == "all done" else STOPPED

    def _predict(self, events: _Events) -> str:
        from orch_runner.batches import Queue
        from orch_runner.shard_file import check_writable

        job = read_job(self._folder / "job.json")
        first = self.sequence == 0
        if first:
            say_hello(events)
        check_writable(job)
        waited = not self._model.done()
        if waited:
            events.emit("loading", model=job.model_name)
        predictor, seconds = self._loaded()
        batch_size = min(job.batch_size, predictor.max_batch)
        if first or waited:
            say_ready(events, job, batch_size, seconds if waited else 0.0)
        queue = Queue(job, batch_size, self._careful, self.seen)
        try:
            return predict_queue(job, queue, predictor, events, batch_size, self._stopping.is_set)
        finally:
            self.seen = queue.seen

    def _loaded(self) -> Any:
        while not self._stopping.is_set():
            try:
                return self._model.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                # A TimeoutError of the loading itself is one too; it would be met again for ever.
                if self._model.done():
                    raise
        raise _Stopped
