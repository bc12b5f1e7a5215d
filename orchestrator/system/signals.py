"""SIGINT and SIGTERM: delivered to the one run of the main thread, or shared by several runs in threads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Count the user's requests to stop and call the listeners. One per process, as signals are the process's."""

    def __init__(self) -> None:
        self.count = 0
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.RLock()  # a handler may interrupt its own thread inside `listen`

    def add(self) -> None:
        """Count a request and call each listener; a listener that comes later is called for it as well."""
        with self._lock:
            self.count += 1
            for listener in self._listeners:
                listener()

    @contextmanager
    def listen(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` for each request made before and inside the block."""
        with self._lock:
            self._listeners.append(listener)
            for _ in range(self.count):
                listener()
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


_shared: StopRequests | None = None


@contextmanager
def share_signals() -> Iterator[StopRequests]:
    """Pass signals on to everything inside `call_on_signal`, in any thread. For the main thread."""
    global _shared
    requests = _shared = StopRequests()
    try:
        with _handle(requests.add, SIGNALS):
            yield requests
    finally:
        _shared = None


@contextmanager
def call_on_signal(listener: Callable[[], None]) -> Iterator[None]:
    """Call `listener` on each SIGINT and SIGTERM. In a thread of a host program nothing changes."""
    requests = _shared
    if requests is not None:
        with requests.listen(listener):
            yield
    else:
        with _handle(listener, SIGNALS):
            yield


@contextmanager
def raise_on_sigterm(error: BaseException) -> Iterator[None]:
    """Raise `error` in the main thread on SIGTERM. In a thread of a host program nothing changes."""

    def stop() -> None:
        raise error

    with _handle(stop, [signal.SIGTERM]):
        yield


@contextmanager
def _handle(act: Callable[[], None], numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Call `act` on these signals. Python allows handlers in the main thread only; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: act()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
