"""Run a subprocess; append its output to a log and report each line."""

from __future__ import annotations

import re
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.system.display import Report

TAIL_LINES = 200
_RUNNING: set[subprocess.Popen[str]] = set()


def terminate_subprocesses() -> None:
    """Send SIGTERM to the subprocesses of all threads; each `run_subprocess` then returns a failure."""
    for process in list(_RUNNING):
        process.terminate()


def run_subprocess(
    command: Sequence[str],
    log: Path,
    report: Report,
    *,
    environment: Mapping[str, str] | None = None,
    omit_from_tail: re.Pattern[str] | None = None,
) -> tuple[int, list[str]]:
    """Run a command, append its output to `log`, and return its exit status and the last lines of output.

    Lines that match `omit_from_tail` are not among the returned ones. An exception, Ctrl-C among them, terminates
    the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
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
                if line.strip() and not (omit_from_tail and omit_from_tail.match(line)):
                    tail.append(line.rstrip())
        except BaseException:
            process.terminate()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
            _RUNNING.discard(process)
    return code, list(tail)


def read_output(command: Sequence[str]) -> str:
    """Return a short command's stdout; empty where the command is missing, fails or takes over 30 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
