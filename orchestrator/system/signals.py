"""Ctrl-C and SIGTERM: to the one run of the main thread, or passed on to several runs in threads."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """How often the user asked to stop, and who wants to be told. One for the process: signals are the process's."""

    def __init__(self) -> None:
        self.presses = 0
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.RLock()  # a handler may interrupt its own thread's `told`

    def press(self) -> None:
        """Tell everybody, those too that come later."""
        with self._lock:
            self.presses += 1
            for listener in self._listeners:
                listener()

    @contextmanager
    def told(self, listener: Callable[[], None]) -> Iterator[None]:
        """While this lasts, each press calls `listener`; those before it as well."""
        with self._lock:
            self._listeners.append(listener)
            for _ in range(self.presses):
                listener()
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


_stop: Stop | None = None


@contextmanager
def passing_on() -> Iterator[Stop]:
    """In the main thread: while this lasts, signals go to all who are in `signals_to`, whatever their thread."""
    global _stop
    stop = _stop = Stop()
    try:
        with _handled(stop.press):
            yield stop
    finally:
        _stop = None


@contextmanager
def signals_to(listener: Callable[[], None]) -> Iterator[None]:
    """While this lasts, a signal calls `listener`. In a thread of a host program nothing changes."""
    stop = _stop
    if stop is not None:
        with stop.told(listener):
            yield
    elif threading.current_thread() is threading.main_thread():
        with _handled(listener):
            yield
    else:
        yield


@contextmanager
def _handled(act: Callable[[], None]) -> Iterator[None]:
    """Signals call `act`; outside of the main thread Python allows no handlers, and nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: act()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
