"""Workers that are child processes: of the venv runtime, where it is the runner itself, and of Apptainer."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from orchestrator.errors import MachineError
from orchestrator.runtimes.base import Exit, WorkerSpec
from orchestrator.system.json_lines import split_lines

_PID_NAME = "pid"
_BLOCK_BYTES = 1 << 16
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
_GPUS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def passed_on() -> dict[str, str]:
    """The few variables of the caller's that a guest sees."""
    return {name: os.environ[name] for name in (*_PASSED_ON, *_GPUS) if name in os.environ}


def visible_gpus(device: str) -> dict[str, str]:
    """The variables that show a worker its GPU: the one numbered, else those the caller sees."""
    number = device.partition(":")[2]
    if number:
        return {"CUDA_VISIBLE_DEVICES": number}
    return {name: os.environ[name] for name in _GPUS if name in os.environ}


class ProcessWorker:
    """A runner as a child process, in a process group of its own so that the terminal's Ctrl-C does not reach it."""

    def __init__(
        self, spec: WorkerSpec, command: Sequence[str], environment: dict[str, str], scratch: Path | None = None
    ) -> None:
        """`scratch`: a folder of the worker's own, removed with it."""
        self.name = spec.name
        self._scratch = scratch
        with spec.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise MachineError(f"the worker {spec.name} cannot be started", why=str(error), log=spec.log) from error
        (spec.job / _PID_NAME).write_text(_identity(self._process.pid) or "ended")

    def lines(self) -> Iterator[bytes]:
        """Events as they are written."""
        read = cast(io.BufferedReader, self._process.stdout).read1
        yield from split_lines(iter(lambda: read(_BLOCK_BYTES), b""), keep_unfinished=True)

    def wait(self) -> Exit:
        """Block until the process has ended."""
        return Exit(self._process.wait())

    def terminate(self) -> None:
        """SIGTERM."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL for the whole group, so that no child of the predictor stays behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release the pipe, and remove what only the worker needed."""
        self.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def reap_processes(jobs: Path) -> int:
    """Kill the processes that were started for job folders under `jobs`; how many there were.

    A process is known by its number, when it began and which start of which machine that was: a number alone may be
    somebody else's by now.
    """
    found = 0
    for file in jobs.glob(f"*/{_PID_NAME}"):
        try:
            written = file.read_text()
            pid = int(written.partition(" ")[0])
            if _identity(pid) != written:
                continue
        except (OSError, ValueError):
            continue
        found += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return found


def _identity(pid: int) -> str | None:
    """What no other process has, ever. The time is the 22nd field of stat, the 20th behind the name's bracket."""
    with contextlib.suppress(OSError, IndexError):
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{pid} {began} {boot}"
    return None
