"""Decode images in threads, each within a time limit.

A C decoder in a thread cannot be stopped, and a child process per image would cost the copy of its pixels. So an image
beyond the limit fails, its thread is left alone and another one takes its place: progress goes on at once. Size limits
end nearly every such thread; one that also keeps the interpreter's lock stops the heartbeats, and the host then
replaces the worker and finds the image by careful shards.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Callable, Generic, List, Optional, TypeVar

from orch_runner.events import bind_log, bound_log, log

POLL_SECONDS = 0.5

Result = TypeVar("Result")


class DecodeTask(Generic[Result]):
    """One image that is decoded: `started` (monotonic) once a thread has it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self.work = work
        self.done = threading.Event()
        self.started: Optional[float] = None
        self.results: List[Result] = []
        self.is_abandoned = False


class DecodePool(Generic[Result]):
    """Threads that do tasks in order. `work` must not raise."""

    def __init__(self, threads: int, limit: float) -> None:
        """`limit`: seconds for one task."""
        self._count, self._limit = threads, limit
        self._tasks: "queue.SimpleQueue[Optional[DecodeTask[Result]]]" = queue.SimpleQueue()
        for _ in range(threads):
            self._start_thread()

    def submit(self, work: Callable[[], Result]) -> DecodeTask[Result]:
        """Have a thread do `work`; `wait` returns its result."""
        task = DecodeTask(work)
        self._tasks.put(task)
        return task

    def wait(self, task: DecodeTask[Result]) -> Optional[Result]:
        """Return the result of a task, or None when it takes longer than the limit."""
        while not task.done.wait(min(POLL_SECONDS, self._limit)):
            if task.started is not None and time.monotonic() - task.started > self._limit:
                task.is_abandoned = True
                log(f"an image was not decoded within {self._limit:g} s; its thread is replaced")
                self._start_thread()
                return None
        return task.results[0]

    def close(self) -> None:
        """Let the threads end once their present task is done; drop the other tasks."""
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._count):
            self._tasks.put(None)

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, args=(bound_log(),), name="decode", daemon=True).start()

    def _work(self, bound: object) -> None:
        bind_log(bound)  # type: ignore[arg-type]
        while True:
            task = self._tasks.get()
            if task is None:
                return
            task.started = time.monotonic()
            task.results.append(task.work())
            task.done.set()
            if task.is_abandoned:
                return
            del task  # its pixels are no longer needed here
