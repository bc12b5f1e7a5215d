"""Serve one job of the spool in a thread of a model process, as the runner would serve it alone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any, Iterable, Optional, Set

from orch_runner.contract import read_job
from orch_runner.events import Emitter, bind_log, log
from orch_runner.memory import resident_mb
from orch_runner.worker import STOPPED, emit_hello, emit_ready, predict_queue, report_failure

DROPPED = 137
POLL_SECONDS = 0.05


class _StoppedWhileLoading(Exception):
    """The job was stopped before its model was loaded."""


class _JobEvents(Emitter):
    """A job's events.jsonl, which another process may have begun."""

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
        """Drop all further events and close the file."""
        super().close()
        os.close(self._file)


class JobSession:
    """One job in a model process; replaces orch_runner.worker's main function."""

    def __init__(self, folder: Path, model: "Future[Any]", careful: bool, seen: Iterable[str], sequence: int) -> None:
        self._folder, self._model, self._careful = folder, model, careful
        self._events: Optional[_JobEvents] = None
        self._stopping = threading.Event()
        self._is_dropped = False
        self.seen: Set[str] = set(seen)
        """The queue files taken so far, here or by the model process that had the job before."""
        self.sequence, self.images = sequence, 0
        self.failure: Optional[Exception] = None

    def stop(self, drop: bool = False) -> None:
        """End after the current batch. `drop`: the results do not matter any more."""
        self._is_dropped = self._is_dropped or drop
        self._stopping.set()
        log(f"{self._folder.name}: ends after the current batch")

    def emit_heartbeat(self) -> None:
        """Emit that this process is alive."""
        events = self._events
        if events is not None:
            events.emit("heartbeat", rss_mb=resident_mb(os.getpid()))

    def run(self) -> Optional[int]:
        """Serve the job; return the contract's exit status, or None if another process has to continue it."""
        try:
            with (self._folder / "worker.log").open("a", encoding="utf-8") as stream:
                bind_log(stream)
                events = self._events = _JobEvents(self._folder / "events.jsonl", self.sequence)
                try:
                    return self._serve(events)
                finally:
                    self.sequence, self.images = events.sequence, events.images
                    events.close()
        except OSError:  # the host deleted the folder
            return DROPPED
        finally:
            bind_log(None)

    def _serve(self, events: _JobEvents) -> Optional[int]:
        try:
            outcome = self._predict(events)
        except _StoppedWhileLoading:
            outcome = "stopped while loading"
        except Exception as error:
            self.failure = error
            code = report_failure(events, error)
            events.emit("bye", reason="failed")
            return code
        if outcome == "handed over":
            return None
        events.emit("bye", reason=outcome)
        if self._is_dropped:
            return DROPPED
        return 0 if outcome == "all done" else STOPPED

    def _predict(self, events: _JobEvents) -> str:
        from orch_runner.batches import ShardQueue
        from orch_runner.shard_file import check_writable

        job = read_job(self._folder / "job.json")
        is_first = self.sequence == 0
        if is_first:
            emit_hello(events)
        check_writable(job)
        must_load = not self._model.done()
        if must_load:
            events.emit("loading", model=job.model_name)
        predictor, seconds = self._wait_for_model()
        batch_size = min(job.batch_size, predictor.max_batch)
        if is_first or must_load:
            emit_ready(events, job, batch_size, seconds if must_load else 0.0)
        queue = ShardQueue(job, batch_size, self._careful, self.seen)
        try:
            return predict_queue(job, queue, predictor, events, batch_size, self._stopping.is_set)
        finally:
            self.seen = queue.seen

    def _wait_for_model(self) -> Any:
        while not self._stopping.is_set():
            try:
                return self._model.result(timeout=POLL_SECONDS)
            except TimeoutError:
                # The loading itself may have raised a TimeoutError, which every call would raise again.
                if self._model.done():
                    raise
        raise _StoppedWhileLoading
