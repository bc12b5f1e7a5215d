"""Read an image file once: regular files within the size limit only, unchanged since the host listed them."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

NO_DIGEST = bytes(32)
"""Stands for the digest of a file that was not read."""

# Without O_NONBLOCK, opening a FIFO would wait for its other end for ever.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class DecodeError(Exception):
    """The file cannot be decoded; the message is the reason shown to users. `sha256`: its digest if it was read."""

    def __init__(self, reason: str, sha256: bytes = NO_DIGEST) -> None:
        super().__init__(reason)
        self.sha256 = sha256


@dataclass(frozen=True)
class ImageFile:
    """The content of an image file, and its digest."""

    data: bytes
    sha256: bytes


def read_image_file(path: Path, max_bytes: int, size: Optional[int], mtime_ns: Optional[int]) -> ImageFile:
    """Read and hash a file. `size`, `mtime_ns`: its state when it was listed, None if unknown. Raises DecodeError."""
    try:
        descriptor = os.open(str(path), _READ)
    except OSError as error:
        raise DecodeError(_explain(error)) from error
    try:
        return _read_opened(descriptor, max_bytes, size, mtime_ns)
    except OSError as error:
        raise DecodeError(_explain(error)) from error
    finally:
        os.close(descriptor)


def _read_opened(descriptor: int, max_bytes: int, size: Optional[int], mtime_ns: Optional[int]) -> ImageFile:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        raise DecodeError("not a regular file")
    if (size is not None and state.st_size != size) or (mtime_ns is not None and state.st_mtime_ns != mtime_ns):
        raise DecodeError("the file changed after the images of this run were listed")
    if state.st_size > max_bytes:
        raise DecodeError(f"the file has {state.st_size} bytes, more than the limit of {max_bytes}")
    data = os.read(descriptor, state.st_size)
    while len(data) < state.st_size:  # one call returns at most 2 GiB, on some network file systems less
        more = os.read(descriptor, state.st_size - len(data))
        if not more:
            break
        data += more
    now = os.fstat(descriptor)
    if len(data) != state.st_size or (now.st_size, now.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
        raise DecodeError("the file changed while it was read")
    return ImageFile(data, hashlib.sha256(data).digest())


def _explain(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist (any more)"
    if isinstance(error, PermissionError):
        return "permission denied"
    return f"cannot be read: {error.strerror or error}"
