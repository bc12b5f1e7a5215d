"""Errors that come of a limit name it."""

from __future__ import annotations

import errno

from orch_runner.limits import describe_error


def test_limits_are_named() -> None:
    assert describe_error(ValueError("x")) == "ValueError: x"
    assert "--file-size" in describe_error(OSError(errno.EFBIG, "File too large"))
    assert "--processes" in describe_error(RuntimeError("can't start new thread"))
    assert "--processes" in describe_error(OSError(errno.EAGAIN, "Resource temporarily unavailable"))
