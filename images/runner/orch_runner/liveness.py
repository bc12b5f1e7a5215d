"""Detect that the host of a job is gone: a living host touches a file every few seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Optional


class Liveness:
    """Watch a file that the host touches.

    Only changes of its modification time count, not the time itself: the clocks of host and guest may differ.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._touched: Optional[float] = None
        self._changed_at = time.monotonic()

    def has_timed_out(self) -> bool:
        """Check the file; return whether no check saw it change within the timeout."""
        try:
            touched: Optional[float] = self._path.stat().st_mtime
        except OSError:
            touched = None
        now = time.monotonic()
        if touched != self._touched:
            self._touched, self._changed_at = touched, now
        return now - self._changed_at > self._timeout
