"""Name the limit that an error came of; the host sets the limits of workers."""

from __future__ import annotations

import errno

_NO_MORE_THREADS = "can't start new thread"


def describe_error(error: BaseException) -> str:
    """Return the kind and the text of an error, and the limit of the worker that was hit, where that is known."""
    text = f"{type(error).__name__}: {error}"
    number = getattr(error, "errno", None)
    if number == errno.EFBIG:
        return f"{text}: the limit of the size of a file, --file-size raises it"
    if number == errno.EAGAIN or _NO_MORE_THREADS in str(error):
        return f"{text}: maybe the limit of processes and threads, --processes raises it"
    return text
