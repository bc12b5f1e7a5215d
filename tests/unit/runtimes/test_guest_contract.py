"""What the host tells a worker, compared whole; the reference is the docstring of orch_runner.__main__."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from orchestrator.errors import RuntimeUnsuitable
from orchestrator.inputs.collect import InputImage
from orchestrator.paths import GuestFolder
from orchestrator.runtimes.guest_contract import (
    ALIVE_EVERY,
    ALIVE_TIMEOUT,
    CONTRACT,
    DECODE_TIMEOUT,
    MAX_FILE_BYTES,
    PART_EVERY,
    GuestPaths,
    JobQueue,
    ShardOrder,
    job_document,
    write_job,
)
from orchestrator.system.guest_tree import GuestTree

SETTINGS = {"run": "run1", "plan": "plan1", "device": "cpu", "score_threshold": 0.05}
PATHS = GuestPaths(
    *(PurePosixPath(f"/{name}") for name in ("data", "weights", "out", "cache", "job/queue", "stack")),
    sources={"up": PurePosixPath("/sources/up")},
)


def test_the_job_document() -> None:
    assert job_document(SETTINGS, "w0-1", PATHS) == {
        **SETTINGS, "contract": CONTRACT, "worker": "w0-1", "alive_timeout": ALIVE_TIMEOUT, "part_every": PART_EVERY,
        "max_file_bytes": MAX_FILE_BYTES, "decode_timeout": DECODE_TIMEOUT,
        "paths": {"data": "/data", "weights": "/weights", "out": "/out", "cache": "/cache", "queue": "/job/queue",
                  "stack": "/stack", "sources": {"up": "/sources/up"}},
    }  # fmt: skip


def test_a_queue_is_a_folder_of_files_as_the_contract_names_them(tmp_path: Path) -> None:
    queue, folder = JobQueue(GuestFolder(tmp_path, "job")), tmp_path / "job" / "queue"
    queue.create()
    queue.put(ShardOrder(3, []))
    queue.put(ShardOrder(12, []))
    queue.remove(3)
    queue.remove(4)
    assert sorted(path.name for path in folder.iterdir()) == ["00012.json", "alive"]
    assert json.loads((folder / "00012.json").read_text())["shard"] == 12
    queue.end()
    assert (folder / "end").exists()


@pytest.mark.parametrize(("age", "is_due"), [(ALIVE_EVERY / 2, False), (ALIVE_EVERY + 1, True)])
def test_the_sign_of_life_is_renewed_when_it_is_due(
    tmp_path: Path, age: float, is_due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, now = JobQueue(GuestFolder(tmp_path, "job")), time.monotonic()
    queue.create()
    alive, then = tmp_path / "job" / "queue" / "alive", time.time() - 100
    os.utime(alive, (then, then))
    monkeypatch.setattr(time, "monotonic", lambda: now + age)
    queue.keep_alive()
    assert (alive.stat().st_mtime - then > 50) == is_due


def beat(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the sign of life renewed."""
    now = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: now + 2 * ALIVE_EVERY)
        queue.keep_alive()


@pytest.mark.parametrize("offset", [-300.0, 300.0])
def test_the_sign_of_life_changes_whatever_the_clocks_say(
    tmp_path: Path, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, alive = JobQueue(GuestFolder(tmp_path, "job")), tmp_path / "job" / "queue" / "alive"
    queue.create()
    before = alive.read_bytes()
    os.utime(alive, (time.time() + offset,) * 2)
    beat(queue, monkeypatch)
    assert alive.read_bytes() != before, "a file server may set all times by a clock that stands still"


def test_a_sign_of_life_that_vanished_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, alive = JobQueue(GuestFolder(tmp_path, "job")), tmp_path / "job" / "queue" / "alive"
    queue.create()
    alive.unlink()
    beat(queue, monkeypatch)
    assert alive.exists()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOSPC])
def test_a_sign_of_life_that_cannot_be_renewed_is_no_error(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    queue = JobQueue(GuestFolder(tmp_path, "job"))
    queue.create()
    for name in ("write", "touch"):
        monkeypatch.setattr(GuestTree, name, refuse)
    beat(queue, monkeypatch)


def test_a_full_disk_keeps_no_sign_of_life_from_being_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    queue, alive = JobQueue(GuestFolder(tmp_path, "job")), tmp_path / "job" / "queue" / "alive"
    queue.create()
    os.utime(alive, (1, 1))
    monkeypatch.setattr(GuestTree, "write", refuse)
    beat(queue, monkeypatch)
    assert alive.stat().st_mtime > 1


@pytest.mark.parametrize("name", ["jobs", "jobs/j", "jobs/j/queue"])
def test_nothing_is_written_through_a_link_in_place_of_a_folder(tmp_path: Path, name: str) -> None:
    outside, root = tmp_path / "outside", tmp_path / "spool"
    (outside / "j" / "queue").mkdir(parents=True)
    (outside / "queue").mkdir()
    (root / "jobs").mkdir(parents=True)
    queue = JobQueue(GuestFolder(root, "jobs/j"))
    queue.create()
    (root / name).rename(root / "away")
    (root / name).symlink_to(outside)
    queue.put(ShardOrder(3, []))
    queue.end()
    queue.remove(3)
    queue.keep_alive()
    with pytest.raises(RuntimeUnsuitable):
        write_job(GuestFolder(root, "jobs/j" if name != "jobs/j/queue" else "jobs/j/queue"), {})
    assert sorted(path.relative_to(outside).as_posix() for path in outside.rglob("*")) == ["j", "j/queue", "queue"]


def test_a_shard_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    """A worker that swaps its job folder for a link and back must not keep a run waiting for ever."""
    job, away = tmp_path / "job", tmp_path / "away"
    queue = JobQueue(GuestFolder(tmp_path, "job"))
    queue.create()
    job.rename(away)
    job.symlink_to(away)
    for number in (1, 2):
        queue.put(ShardOrder(number, []))
    queue.remove(2)
    queue.end()
    job.unlink()
    away.rename(job)
    queue.keep_alive()
    assert sorted(path.name for path in (job / "queue").iterdir()) == ["00001.json", "alive", "end"]


def test_a_shard_document_skips_what_is_known_to_be_unreadable() -> None:
    images = [
        InputImage(4, "a.jpg", "0/a.jpg", 5, 1, 1),
        InputImage(5, "b.jpg", "", 6, 0, 0, "no such file"),
        InputImage(6, "c.jpg", "0/c.jpg", 7, 1, 1),
    ]
    assert ShardOrder(2, images, {6: "died"}, True, frozenset({6, 4})).document() == {
        "shard": 2,
        "images": [
            {"index": 4, "file": "a.jpg", "path": "0/a.jpg", "size": 1, "mtime_ns": 1},
            {"index": 5, "file": "b.jpg", "path": "", "size": 0, "mtime_ns": 0},
            {"index": 6, "file": "c.jpg", "path": "0/c.jpg", "size": 1, "mtime_ns": 1},
        ],
        "skip": {"5": "no such file", "6": "died"},
        "careful": True,
        "alone": [4, 6],
    }
