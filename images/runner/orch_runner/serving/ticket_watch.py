"""Being told of new tickets: by inotify where the kernel tells, else by looking again and again."""

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
    """Watches one folder. `descriptor` becomes readable when something new is there; None: it has to be polled."""

    def __init__(self, folder: Path, poll: bool) -> None:
        self.descriptor: Optional[int] = None if poll else _watched(folder)
        self._told: Set[str] = set()
        self._listed: Set[str] = set()

    def told(self) -> bool:
        """Whether a file came since the last call."""
        if self.descriptor is None:
            return True
        names = _names(self.descriptor)
        self._told |= names
        return bool(names)

    def compare(self, names: Iterable[str], first: bool = False) -> bool:
        """Given what a listing shows: whether a file came that nobody told of. From then on the folder is polled.

        Network and desktop mounts show files that other machines put there without a word.
        """
        there = set(names)
        if self.descriptor is None:
            return False
        self.told()
        silent = there - self._told - self._listed
        self._told &= there
        self._listed = there
        if first or not silent:
            return False
        os.close(self.descriptor)
        self.descriptor = None
        return True


def _watched(folder: Path) -> Optional[int]:
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


def _names(descriptor: int) -> Set[str]:
    found: Set[str] = set()
    while True:
        try:
            block = os.read(descriptor, 65536)
        except BlockingIOError:
            return found
        at = 0
        while at < len(block):
            length = _EVENT.unpack_from(block, at)[3]
            at += _EVENT.size
            found.add(os.fsdecode(block[at : at + length].rstrip(b"\0")))
            at += length
