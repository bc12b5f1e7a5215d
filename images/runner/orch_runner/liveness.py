"""Detect that the host of a job is gone: a living host changes a file every few seconds."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Optional

_CONTENT_BYTES = 64


class Liveness:
    """Watch a file that the host changes.

    Only changes count, never the file's time itself: the clocks of host, guest and file server may differ.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._last_state: Optional[Any] = None
        self._changed_at = time.monotonic()

    def has_timed_out(self) -> bool:
        """Check the file; return whether no check saw it change within the timeout."""
        state, now = self._read_state(), time.monotonic()
        if state != self._last_state:
            self._last_state, self._changed_at = state, now
        return now - self._changed_at > self._timeout

    def _read_state(self) -> Optional[Any]:
        """Return what differs after each change; None for a file that is missing or cannot be read.

        The file is opened, as NFS asks the server only then: its times may be a minute old, and are kept if the server
        does not set them.
        """
        try:
            descriptor = os.open(str(self._path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            state = os.fstat(descriptor)
            return state.st_mtime_ns, state.st_ino, os.read(descriptor, _CONTENT_BYTES)
        except OSError:
            return None
        finally:
            os.close(descriptor)
