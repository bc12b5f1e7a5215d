"""JSON events on stdout, one a line; everything else that is printed is sent to stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Dict, Optional


class Emitter:
    """Writes events to a private copy of stdout, so that a library that prints cannot break the protocol."""

    def __init__(self, descriptor: Optional[int] = None) -> None:
        if descriptor is None:
            descriptor = os.dup(1)
            os.dup2(2, 1)
            sys.stdout = sys.stderr
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._sequence = 0
        self._over = False

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event; "bye" is the last. A host that no longer listens is no error: that is noticed elsewhere."""
        with self._lock:
            if self._over:
                return
            self._over = event == "bye"
            self._sequence += 1
            record: Dict[str, Any] = {"event": event, "seq": self._sequence, "time": round(time.time(), 3)}
            record.update(fields)
            line = (json.dumps(record, ensure_ascii=True) + "\n").encode("ascii")
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                pass


def log(message: str) -> None:
    """Write a line for people to stderr."""
    stamp = time.strftime("%H:%M:%S")
    print(f"{stamp} {message}", file=sys.stderr, flush=True)
