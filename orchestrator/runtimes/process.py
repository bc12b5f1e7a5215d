"""Workers that are child processes: the runner itself, or a command that contains it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from orchestrator.errors import MachineError
from orchestrator.runtimes.base import Exit, WorkerSpec
from orchestrator.runtimes.limits import KEPT_LOG_SIZE, format_size
from orchestrator.system import GuestTree, read_regular, split_lines

_PID_NAME = "pid"
_PID_BYTES = 200
_LIMIT_UNIT = 512
"""Bytes of a block, in which POSIX's ulimit counts."""
_BLOCK_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
"""The most that a pipe holds: what a process wrote before it ended."""
_END_CHECK_SECONDS = 0.5
"""Seconds between two checks whether a silent process has ended."""
_LOG_CHECK_SECONDS = 10.0
_LOG_BEGINNING = 1 << 20
"""Bytes of a log's beginning that are kept when it is cut: they say how the worker was started."""
_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
_GPUS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


_VMSTAT = Path("/proc/vmstat")
_OUT_OF_MEMORY = "out of memory: the kernel killed it"
_MEMORY_HINT = (
    "fewer workers (--workers N) or smaller batches (--batch-size N) need less memory; then the same command resumes"
)
_SHM_HINT = "see df -h /dev/shm, remove what is left there by other programs; then the same command resumes"


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since it started, in control groups too."""
    with contextlib.suppress(OSError, ValueError):
        for line in _VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def inherited_variables() -> dict[str, str]:
    """Return the few environment variables of the caller that a guest sees."""
    return {name: os.environ[name] for name in (*_INHERITED, *_GPUS) if name in os.environ}


def visible_gpus(device: str) -> dict[str, str]:
    """Return the variables that show a worker its GPU: the one named, else those that the caller sees.

    Numbers are nvidia-smi's, as everywhere in orch; by default CUDA counts the fastest GPU first.
    """
    name = device.partition(":")[2]
    shown = {"CUDA_VISIBLE_DEVICES": name} if name else {one: os.environ[one] for one in _GPUS if one in os.environ}
    by_number = shown.get("CUDA_VISIBLE_DEVICES", "")[:1].isdigit()
    return {**shown, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if by_number else shown


class ProcessWorker:
    """A runner as a child process, in its own process group: the terminal's Ctrl-C does not reach it."""

    def __init__(
        self, spec: WorkerSpec, command: Sequence[str], environment: dict[str, str], scratch: Path | None = None
    ) -> None:
        """Start the process. `scratch`: a folder that is removed with the worker. Raises MachineError."""
        self.name = spec.name
        self._log, self._log_checked = spec.log, time.monotonic()
        self._scratch, self._file_size = scratch, spec.limits.file_size
        self._oom_kills, self._is_killed = count_oom_kills(), False
        with spec.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    limited(command, self._file_size),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise MachineError(f"cannot start the worker {spec.name}", why=str(error), log=spec.log) from error
        (spec.job / _PID_NAME).write_text(_identity(self._process.pid) or "ended")

    def lines(self) -> Iterator[bytes]:
        """Yield events as they are written, until the process ends: a child of its own may keep the pipe open."""
        yield from split_lines(self._blocks(), keep_unfinished=True)

    def _blocks(self) -> Iterator[bytes]:
        pipe, left = cast(IO[bytes], self._process.stdout).fileno(), _PIPE_BYTES
        while left > 0:
            has_ended = self._process.poll() is not None
            if time.monotonic() - self._log_checked > _LOG_CHECK_SECONDS:
                self._log_checked = time.monotonic()
                cut_log(self._log)
            if select.select([pipe], [], [], 0 if has_ended else _END_CHECK_SECONDS)[0]:
                block = os.read(pipe, _BLOCK_BYTES)
                if not block:
                    return
                left -= len(block) if has_ended else 0
                yield block
            elif has_ended:
                return

    def wait(self) -> Exit:
        """Block until the process has ended."""
        code = self._process.wait()
        if self._file_size is not None and code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ):
            size = format_size(self._file_size)
            return Exit(code, detail=f"it wrote a file of more than {size}, --file-size raises the limit")
        if (
            code in (-signal.SIGKILL, 128 + signal.SIGKILL)
            and not self._is_killed
            and count_oom_kills() > self._oom_kills
        ):
            return Exit(code, out_of_memory=True, detail=_OUT_OF_MEMORY, hint=_MEMORY_HINT)
        if code in (-signal.SIGBUS, 128 + signal.SIGBUS):
            return Exit(code, hint=_SHM_HINT)
        return Exit(code)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the whole group, so that no child of the predictor is left behind."""
        self._is_killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process, close the pipe and remove the scratch folder."""
        self.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._scratch is not None:
            with GuestTree(self._scratch.parent) as tree:
                tree.remove_folder(self._scratch.name)


def cut_log(log: Path, most: int = KEPT_LOG_SIZE) -> None:
    """Cut the middle out of a log of more than `most` bytes; its process may go on appending to it.

    What is written at this very moment may be lost.
    """
    with contextlib.suppress(OSError), log.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size <= most:
            return
        stream.seek(size - most // 2)
        end = stream.read(most // 2)
        stream.seek(min(_LOG_BEGINNING, most // 4))
        stream.write(f"\n(cut: the log was longer than {format_size(most)})\n".encode() + end)
        stream.truncate()


def limited(command: Sequence[str], file_size: int | None) -> list[str]:
    """Return the command line that runs `command` with a limit of the size of its files. A pure value.

    The shell sets the limit and becomes the command: no code runs between fork and exec in this threaded process. A
    limit that is lower already stays.
    """
    if file_size is None:
        return list(command)
    return ["/bin/sh", "-c", 'ulimit -f "$0" 2>/dev/null; exec "$@"', str(file_size // _LIMIT_UNIT), *command]


def reap_processes(jobs: Path) -> int:
    """Kill the processes that were started for job folders under `jobs`, and return their number.

    A process is identified by its number, its start time and the machine's boot: a number alone may be reused.
    """
    killed = 0
    for file in jobs.glob(f"*/{_PID_NAME}"):
        try:
            recorded = read_regular(file, _PID_BYTES).decode("ascii")
            pid = int(recorded.partition(" ")[0])
            if _identity(pid) != recorded:
                continue
        except (OSError, ValueError):
            continue
        killed += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return killed


def _identity(pid: int) -> str | None:
    """Return what no other process ever has; None where it has ended. Field 22 of stat is the start time."""
    with contextlib.suppress(OSError, IndexError):
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{pid} {began} {boot}"
    return None
