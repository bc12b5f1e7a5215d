"""Lock files that processes of one host hold; a lock ends with its process."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def hold_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path`; yield False at once where another process holds it and `wait` is false."""
    stream = acquire_lock(path, wait=wait)
    if stream is None:
        yield False
        return
    with stream:
        yield True


def acquire_lock(path: Path, *, wait: bool) -> IO[str] | None:
    """Lock the file `path` until the returned stream is closed; None where another process holds it.

    The file keeps its content, which may say who holds it. Another user's file is locked too, if it may be read or
    written. Raises OSError.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open(path)
        try:
            is_writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
            stream = os.fdopen(descriptor, "r+" if is_writable else "r", encoding="utf-8")
        except OSError:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", str(path)) from None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_same_file(path, stream):
                return stream
        except BlockingIOError:
            stream.close()
            return None
        except BaseException:
            stream.close()
            raise
        stream.close()  # it was deleted in between: a lock on a deleted file keeps nobody out


def _open(path: Path) -> int:
    # A link would lead the lock elsewhere, and a FIFO has no content.
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # In a folder for everybody, Linux lets nobody open another user's file with O_CREAT.
        try:
            return os.open(path, flags | os.O_RDWR)
        except PermissionError:
            return os.open(path, flags | os.O_RDONLY)


def _is_same_file(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
