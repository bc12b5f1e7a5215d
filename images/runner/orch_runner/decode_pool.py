"""Decode images in threads, each within a time limit, all within a limit of bytes.

A C decoder in a thread cannot be stopped, and a child process per image would cost the copy of its pixels. So an image
beyond the limit fails, its thread is left alone and another one takes its place: progress goes on at once. Size limits
end nearly every such thread; one that also keeps the interpreter's lock stops the heartbeats, and the host then
replaces the worker and finds the image by careful shards.

Decoded images that nobody has asked for yet take a limited number of bytes. A thread waits before it decodes a further
one, with the content of the file alone, until there is room or until that image is the one that is asked for.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Callable, Generic, Iterable, List, Optional, TypeVar

from orch_runner.events import bind_log, bound_log, log

POLL_SECONDS = 0.5

Result = TypeVar("Result")
Reserve = Callable[[int], None]
"""Waits until there is room for so many bytes."""


def reserve_nothing(size: int) -> None:
    """Do not wait: nothing limits the bytes."""


class DecodeTask(Generic[Result]):
    """One image that is decoded: `started` (monotonic) while a thread works on it."""

    def __init__(self, work: Callable[[Reserve], Result]) -> None:
        self.work = work
        self.done = threading.Event()
        self.started: Optional[float] = None
        self.results: List[Result] = []
        self.is_abandoned = False
        self.is_needed = False
        """Whether its result is waited for: it is decoded whatever room there is."""
        self.reserved = 0


class DecodePool(Generic[Result]):
    """Threads that do tasks in order. `work` must not raise."""

    def __init__(self, threads: int, limit: float, most_bytes: int) -> None:
        """`limit`: seconds for one task. `most_bytes`: of the results that are not waited for, or one result."""
        self._most_threads, self._limit, self._most_bytes = threads, limit, most_bytes
        self._threads = 0
        self._tasks: "queue.SimpleQueue[Optional[DecodeTask[Result]]]" = queue.SimpleQueue()
        self._room = threading.Condition()
        self._bytes = 0
        self._is_closed = False

    def submit(self, work: Callable[[Reserve], Result]) -> DecodeTask[Result]:
        """Have a thread do `work`, which reserves the bytes of its result first; `wait` returns the result."""
        if self._threads < self._most_threads:  # not all at once: a job of one image needs one
            self._threads += 1
            self._start_thread()
        task = DecodeTask(work)
        self._tasks.put(task)
        return task

    def need(self, tasks: Iterable[DecodeTask[Result]]) -> None:
        """Have tasks done whatever room there is: they are waited for next."""
        with self._room:
            for task in tasks:
                task.is_needed = True
            self._room.notify_all()

    def wait(self, task: DecodeTask[Result]) -> Optional[Result]:
        """Return the result of a task, or None when it takes longer than the limit."""
        self.need([task])
        while not task.done.wait(min(POLL_SECONDS, self._limit)):
            started = task.started
            if started is not None and time.monotonic() - started > self._limit:
                self._release(task, is_abandoned=True)
                log(f"an image was not decoded within {self._limit:g} s; its thread is replaced")
                self._start_thread()
                return None
        self._release(task)
        return task.results[0]

    def close(self) -> None:
        """Let the threads end once their present task is done; drop the other tasks."""
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        with self._room:
            self._is_closed = True
            self._room.notify_all()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _reserve(self, task: DecodeTask[Result], size: int) -> None:
        """Wait until there is room for a task's result, which does not count as time of the task."""
        with self._room:
            task.started = None
            while not (task.is_needed or self._is_closed or not self._bytes or self._bytes + size <= self._most_bytes):
                self._room.wait()
            task.started = time.monotonic()
            if not task.is_abandoned:
                task.reserved = size
                self._bytes += size

    def _release(self, task: DecodeTask[Result], is_abandoned: bool = False) -> None:
        with self._room:
            task.is_abandoned = is_abandoned
            self._bytes -= task.reserved
            task.reserved = 0
            self._room.notify_all()

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, args=(bound_log(),), name="decode", daemon=True).start()

    def _work(self, bound: object) -> None:
        bind_log(bound)  # type: ignore[arg-type]
        while True:
            task = self._tasks.get()
            if task is None:
                return
            task.started = time.monotonic()
            task.results.append(self._do(task))
            task.done.set()
            if task.is_abandoned:
                return
            del task  # its pixels are no longer needed here

    def _do(self, task: DecodeTask[Result]) -> Result:
        return task.work(lambda size: self._reserve(task, size))
