"""Running a command whose output goes to a log and, line by line, to whoever watches."""

from __future__ import annotations

import re
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.system.display import Report

TAIL = 25
_RUNNING: set[subprocess.Popen[str]] = set()


def end_steps() -> None:
    """End the commands under way in all threads; each `run_step` then returns or raises as when they fail."""
    for process in list(_RUNNING):
        process.terminate()


def run_step(
    command: Sequence[str],
    log: Path,
    report: Report,
    *,
    environment: Mapping[str, str] | None = None,
    chatter: re.Pattern[str] | None = None,
) -> tuple[int, list[str]]:
    """Run a command, its output appended to `log`: its exit status and the last lines, those like `chatter` left out.

    An exception, Ctrl-C among them, ends the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=TAIL)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {' '.join(command)}\n")
        stream.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
        assert process.stdout is not None
        _RUNNING.add(process)
        try:
            for line in process.stdout:
                stream.write(line)
                report(line.rstrip())
                if line.strip() and not (chatter and chatter.match(line)):
                    tail.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
            _RUNNING.discard(process)
    return code, list(tail)
