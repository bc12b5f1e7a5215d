"""Tell what an error came of: a line of the stack, a limit that the host sets, full memory, full shared memory."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Optional

STACK_MODULE = "orch_stack_predictor"
"""The name under which the stack's predictor is imported."""

_NO_MORE_THREADS = "can't start new thread"
_SHM = "/dev/shm"
_SHM_SIGNS = ("shared memory", "/torch_", _SHM)
"""In messages of PyTorch and of multiprocessing about files there."""


def describe_error(error: BaseException) -> str:
    """Return the kind and the text of an error, the line of the stack that it came from, and the limit that was hit."""
    line = find_stack_line(error)
    text = f"{type(error).__name__}: {error}" + (f" ({line})" if line else "")
    number = getattr(error, "errno", None)
    if number == errno.EFBIG:
        return f"{text}: the limit of the size of a file, --file-size raises it"
    if number == errno.EAGAIN or _NO_MORE_THREADS in str(error):
        return f"{text}: maybe the limit of processes and threads, --processes raises it"
    if _is_shared_memory_full(error):
        return f"{text}: {_SHM} is full; smaller batches (--batch-size) or fewer --threads need less of it"
    return text


def find_stack_line(error: BaseException) -> Optional[str]:
    """Return "file:line" of the innermost frame in the stack's own folder, relative to it; None where there is none."""
    predictor = getattr(sys.modules.get(STACK_MODULE), "__file__", None)
    if predictor is None:
        return None
    folder = f"{Path(predictor).absolute().parent}{os.sep}"
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(os.path.abspath(file), line) for file, line in frames if os.path.abspath(file).startswith(folder)]
    return f"{own[-1][0][len(folder) :]}:{own[-1][1]}" if own else None


def _is_shared_memory_full(error: BaseException) -> bool:
    text = str(error)
    is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text or "Bus error" in text
    return is_full and any(sign in text for sign in _SHM_SIGNS)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the device or machine is full."""
    name, text = type(error).__name__, str(error).lower()
    signs = ("out of memory", "oom when", "alloc_failed", "allocate memory", "bad_alloc")
    is_memory_error = isinstance(error, MemoryError) or "OutOfMemory" in name or "ResourceExhausted" in name
    return (is_memory_error or any(sign in text for sign in signs)) and not _is_shared_memory_full(error)
