"""The command line of orch with a fault of its machine.

`python -m tests.faults.command FAULT AFTER FOLDER -- ARGUMENTS`. FAULT is the name of an error that a file operation
below FOLDER raises once AFTER of them went well (ENOSPC, EIO, EROFS; all later ones raise it too, but for EIO), or
"clock": the wall clock is another one after AFTER looks at it.
"""

from __future__ import annotations

import builtins
import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any

CLOCK_STEP = 400.0  # seconds


def install_error(name: str, after: int, folder: str) -> None:
    """Have file operations below `folder` fail."""
    code, calls = getattr(errno, name), 0

    def check(path: Any) -> None:
        nonlocal calls
        try:
            text = os.path.abspath(os.fspath(path))
        except TypeError:
            return
        if not isinstance(text, str) or not text.startswith(folder):
            return
        calls += 1
        if calls == after + 1 or (calls > after and name != "EIO"):
            raise OSError(code, os.strerror(code), text)

    def wrap(module: Any, function: str, argument: int, is_write: Callable[..., bool]) -> None:
        original = getattr(module, function)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            if len(arguments) > argument and is_write(*arguments, **named):
                check(arguments[argument])
            return original(*arguments, **named)

        setattr(module, function, wrapped)

    def opens_for_writing(*arguments: Any, **named: Any) -> bool:
        mode = named.get("mode", arguments[1] if len(arguments) > 1 else "r")
        return isinstance(mode, str) and any(letter in mode for letter in "wax+")

    wrap(builtins, "open", 0, opens_for_writing)
    wrap(os, "open", 0, lambda *arguments, **_: bool(arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
    for function, argument in (("replace", 1), ("rename", 1), ("mkdir", 0)):
        wrap(os, function, argument, lambda *_, **__: True)


def install_clock(after: int) -> None:
    """Have the wall clock make a step."""
    original, looks = time.time, 0

    def stepped() -> float:
        nonlocal looks
        looks += 1
        return original() + (CLOCK_STEP if looks > after else 0.0)

    time.time = stepped


def main(arguments: list[str]) -> None:
    """Install the fault and run the command."""
    fault, after, folder, _, *command = arguments
    if fault == "clock":
        install_clock(int(after))
    elif fault != "none":
        install_error(fault, int(after), folder)
    from orchestrator.__main__ import main as run

    sys.argv = ["orch", *command]
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
