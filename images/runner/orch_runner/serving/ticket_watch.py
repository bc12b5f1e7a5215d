"""Notice new tickets: by inotify where the kernel reports them, else by polling."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Iterable, Optional, Set

POLL_SECONDS = 0.02
_CREATE, _MOVED_TO = 0x100, 0x80
_EVENT = struct.Struct("iIII")


class TicketWatch:
    """Watch one folder. `descriptor` becomes readable when a file is added; None: poll the folder instead."""

    def __init__(self, folder: Path, poll: bool) -> None:
        self.descriptor: Optional[int] = None if poll else _open_inotify(folder)
        self._reported: Set[str] = set()
        self._listed: Set[str] = set()

    def has_news(self) -> bool:
        """Return whether a file may have been added since the last call."""
        if self.descriptor is None:
            return True
        names = _read_names(self.descriptor)
        self._reported |= names
        return bool(names)

    def turn_to_polling(self, listing: Iterable[str], first: bool = False) -> bool:
        """Poll from now on if a listing has a file that inotify did not report; return whether that is so.

        Network and desktop mounts do not report files that other machines add. The `first` listing is only recorded.
        """
        names = set(listing)
        if self.descriptor is None:
            return False
        self.has_news()
        unreported = names - self._reported - self._listed
        self._reported &= names
        self._listed = names
        if first or not unreported:
            return False
        os.close(self.descriptor)
        self.descriptor = None
        return True


def _open_inotify(folder: Path) -> Optional[int]:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if descriptor < 0:
            return None
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), _CREATE | _MOVED_TO) >= 0:
            return descriptor
        os.close(descriptor)
    except (OSError, AttributeError):
        pass
    return None


def _read_names(descriptor: int) -> Set[str]:
    names: Set[str] = set()
    while True:
        try:
            block = os.read(descriptor, 65536)
        except BlockingIOError:
            return names
        offset = 0
        while offset < len(block):
            length = _EVENT.unpack_from(block, offset)[3]
            offset += _EVENT.size
            names.add(os.fsdecode(block[offset : offset + length].rstrip(b"\0")))
            offset += length
