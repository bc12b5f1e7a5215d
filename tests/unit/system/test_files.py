"""Files in one step, and locks that keep other processes out and die with theirs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.system import files
from orchestrator.system.files import exclusive, sha256_of, write_json, write_text

HOLD = """
import sys
from pathlib import Path
from orchestrator.system.files import exclusive
with exclusive(Path(sys.argv[1]), wait=True):
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


def test_json_is_replaced_in_one_step_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"name": "äöü 猫"})
    assert "äöü 猫" in path.read_text(encoding="utf-8")
    write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    assert [one.name for one in path.parent.iterdir()] == ["x.json"]


def test_names_that_are_no_utf8_survive_as_escapes(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"file": "a\udcff.jpg"})
    assert json.loads((tmp_path / "x.json").read_bytes().decode("utf-8")) == {"file": "a\udcff.jpg"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "\udcff")
    assert (tmp_path / "x").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_lock_keeps_another_process_out_until_it_dies(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    with another_process_holds(lock) as holder:
        with exclusive(lock, wait=False) as held:
            assert not held
        threading.Timer(0.1, holder.kill).start()
        with exclusive(lock, wait=True) as held:
            assert held
            holder.wait()
    with exclusive(lock, wait=False) as held:
        assert held


def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    flock = files.fcntl.flock  # type: ignore[attr-defined]
    calls: list[object] = []

    def flock_late(stream: object, how: int) -> None:
        if not calls:
            lock.unlink()
        calls.append(how)
        flock(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", flock_late)  # type: ignore[attr-defined]
    with exclusive(lock, wait=False) as held:
        assert held
        assert len(calls) == 2
        assert lock.exists()
