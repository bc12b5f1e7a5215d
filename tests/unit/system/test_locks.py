"""Locks keep other processes out and end with theirs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.system import locks
from orchestrator.system.locks import hold_lock

HOLD = """
import sys
from pathlib import Path
from orchestrator.system.locks import hold_lock
with hold_lock(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holds(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_lock_keeps_another_process_out_until_it_dies(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    with another_process_holds(lock) as holder:
        with hold_lock(lock, wait=False) as held:
            assert not held
        threading.Timer(0.1, holder.kill).start()
        with hold_lock(lock, wait=True) as held:
            assert held
            holder.wait()
    with hold_lock(lock, wait=False) as held:
        assert held


def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    flock = locks.fcntl.flock  # type: ignore[attr-defined]
    calls: list[object] = []

    def flock_late(stream: object, how: int) -> None:
        if not calls:
            lock.unlink()
        calls.append(how)
        flock(stream, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock_late)  # type: ignore[attr-defined]
    with hold_lock(lock, wait=False) as held:
        assert held
        assert len(calls) == 2
        assert lock.exists()
