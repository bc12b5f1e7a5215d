"""Write JSON events to stdout, one a line; everything else that is printed goes to stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import IO, Any, Dict, Optional

BOUND_LOG_BYTES = 64 << 20
"""The log of a job ends there; what is logged later is on stderr alone."""

_thread = threading.local()


class Emitter:
    """Write events to a private copy of stdout, so that a library that prints cannot break the protocol."""

    def __init__(self, descriptor: Optional[int] = None, sequence: int = 0) -> None:
        if descriptor is None:
            descriptor = os.dup(1)
            os.dup2(2, 1)
            sys.stdout = sys.stderr
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._sequence = sequence
        self._is_closed = False

    @property
    def sequence(self) -> int:
        """Return the number of the last event."""
        return self._sequence

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event; nothing is written after "bye".

        A host that no longer reads is no error here: it is detected by the file `alive`.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = event == "bye"
            self._sequence += 1
            record: Dict[str, Any] = {"event": event, "seq": self._sequence, "time": round(time.time(), 3)}
            record.update(fields)
            line = (json.dumps(record, ensure_ascii=True) + "\n").encode("ascii")
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                pass

    def close(self) -> None:
        """Drop all further events."""
        with self._lock:
            self._is_closed = True


def log(message: str) -> None:
    """Write a line to stderr, and to the log that the calling thread is bound to."""
    line = f"{time.strftime('%H:%M:%S')} {message}"
    print(line, file=sys.stderr, flush=True)
    bound = bound_log()
    if bound is not None:
        try:
            if bound.tell() < BOUND_LOG_BYTES:
                print(line, file=bound, flush=True)
        except (OSError, ValueError):  # the host deleted the folder, or the job has ended
            pass


def bind_log(stream: Optional[IO[str]]) -> None:
    """Copy what the calling thread logs to `stream` from now on: one process may serve several jobs."""
    _thread.log = stream


def bound_log() -> Optional[IO[str]]:
    """Return the stream that the calling thread is bound to."""
    return getattr(_thread, "log", None)
