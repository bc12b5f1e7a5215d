"""Whether the host of a job is still there: it touches a file every few seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Optional


class SignOfLife:
    """A file that somebody touches. Clocks may differ: what counts is that its time changes, not what it is."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._touched: Optional[float] = None
        self._seen = time.monotonic()

    def gone(self) -> bool:
        """Whether it was not touched for the timeout, as seen by calls of this."""
        try:
            touched: Optional[float] = self._path.stat().st_mtime
        except OSError:
            touched = None
        now = time.monotonic()
        if touched != self._touched:
            self._touched, self._seen = touched, now
        return now - self._seen > self._timeout
