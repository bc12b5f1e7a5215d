"""Record what orch does below folders that a guest can write: an audit hook for the process under test.

Recorded are opening, renaming, linking, making, removing, listing and changing of files by path below a guest's tree,
with the line of orch that did it. Calls of orchestrator/system/guest_tree.py are not recorded: it is the one door.
Calls relative to a folder's descriptor have no path that could be swapped, and are not recorded either.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

DOOR = "orchestrator/system/guest_tree.py"
PATHS_OF = {
    "open": 1,
    "os.rename": 2,
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.utime": 1,
    "os.scandir": 1,
    "os.listdir": 1,
    "os.mkfifo": 1,
    "os.setxattr": 1,
    "os.lchown": 1,
    "os.chdir": 1,
    "shutil.rmtree": 1,
    "shutil.copyfile": 2,
    "shutil.move": 2,
}
"""The audited events, and how many of their first arguments are paths."""

_busy = threading.local()


def install(log: str, trees: Sequence[str]) -> None:
    """Append a JSON line to `log` for each call below a path that one of the regular expressions `trees` matches."""
    patterns = [re.compile(tree) for tree in trees]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        count = PATHS_OF.get(event)
        if count is None or getattr(_busy, "now", False):
            return
        _busy.now = True
        try:
            for path in arguments[:count]:
                if not isinstance(path, (str, bytes, os.PathLike)):
                    continue
                absolute = os.path.abspath(os.fsdecode(path))
                if any(pattern.search(absolute) for pattern in patterns):
                    frame = responsible(sys._getframe(1))
                    if frame is not None:
                        line = {"event": event, "path": absolute, "by": frame}
                        os.write(descriptor, json.dumps(line).encode() + b"\n")
        finally:
            _busy.now = False

    sys.addaudithook(hook)


def responsible(frame: FrameType | None) -> str | None:
    """Return file and line of orch's code that called; None for the door, and for code that is not orch's."""
    while frame is not None:
        file = frame.f_code.co_filename.replace(os.sep, "/")
        if file.endswith(DOOR):
            return None
        if "/orchestrator/" in file:
            return f"orchestrator/{file.rpartition('/orchestrator/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return None
