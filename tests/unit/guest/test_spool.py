"""A warm worker's clean-up after others: jobs of dead workers end, those of living workers are never touched."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from orch_runner.serving import spool as spools
from orch_runner.serving.spool import DEAD_SECONDS, RESTARTED, WorkerIdentity, WorkerSpool

from orchestrator.runtimes.warm.heartbeat import is_locked
from orchestrator.system import GuestTree

PATHS = {"data": "/data", "weights": "/weights", "cache": "/cache", "opt": "/opt/orch"}


def make_spool(root: Path, worker: str = "here-000001", host: str = "here") -> WorkerSpool:
    return WorkerSpool(WorkerIdentity(worker, "tiny", "cpu", "cpu", host, {**PATHS, "spool": str(root)}))


def claimed_job(root: Path, worker: str, job: str = "job1", beat: int = 1) -> Path:
    """A job that `worker` claimed, with its heartbeat; returns the claim."""
    for folder in (root / "claimed" / worker, root / "jobs" / job, root / "workers"):
        folder.mkdir(parents=True, exist_ok=True)
    claim = root / "claimed" / worker / f"{job}.json"
    claim.write_text("{}")
    (root / "workers" / f"{worker}.json").write_text(json.dumps({"beat": beat}))
    return claim


@contextmanager
def locked(root: Path, worker: str) -> Iterator[None]:
    """The lock that a living worker holds."""
    with (root / "workers" / f"{worker}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def exit_of(root: Path, job: str = "job1") -> Any:
    path = root / "jobs" / job / "exit.json"
    return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that time.monotonic() returns, to be set."""
    now = [1000.0]
    monkeypatch.setattr(spools.time, "monotonic", lambda: now[0])
    return now


def test_a_worker_that_starts_takes_only_the_claims_of_its_dead_predecessors(tmp_path: Path) -> None:
    living, dead = claimed_job(tmp_path, "here-00000a", "job1"), claimed_job(tmp_path, "here-00000b", "job2")
    elsewhere = claimed_job(tmp_path, "there-00000c", "job3")
    with locked(tmp_path, "here-00000a"):
        spool = make_spool(tmp_path)
        spool.open()
        assert living.exists()
        assert exit_of(tmp_path, "job1") is None
    assert not dead.exists()
    assert exit_of(tmp_path, "job2") == {"code": 137, "detail": RESTARTED}
    assert not (tmp_path / "workers" / "here-00000b.json").exists()
    assert not (tmp_path / "claimed" / "here-00000b").exists()
    assert elsewhere.exists(), "its heartbeat may still change"
    spool.close()


def test_claims_of_a_living_worker_elsewhere_stay_however_old_its_heartbeat_is(
    tmp_path: Path, clock: list[float]
) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    claim = claimed_job(tmp_path, "there-00000c")
    with locked(tmp_path, "there-00000c"):
        spool.clean_up_after_others()
        clock[0] += 10 * DEAD_SECONDS
        spool.clean_up_after_others()
        assert claim.exists()
    spool.clean_up_after_others()
    assert not claim.exists()
    assert exit_of(tmp_path) == {"code": 137, "detail": "its warm worker is gone"}
    spool.close()


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks as on NFS: an exclusive one needs a file opened for writing, a shared one a file opened for reading."""
    lock = fcntl.flock

    def flock(stream: Any, operation: int) -> None:
        mode = fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE
        if (operation & fcntl.LOCK_EX and mode == os.O_RDONLY) or (operation & fcntl.LOCK_SH and mode == os.O_WRONLY):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("nfs")
def test_on_nfs_a_living_worker_is_told_from_a_dead_one(tmp_path: Path, clock: list[float]) -> None:
    """Its heartbeat may stand still: a worker that is stopped for a while keeps its lock."""
    spool = make_spool(tmp_path)
    spool.open()
    claim = claimed_job(tmp_path, "there-00000c")
    with locked(tmp_path, "there-00000c"):
        with GuestTree(tmp_path) as tree:
            assert is_locked(tree, "there-00000c")
        for _ in range(2):
            spool.clean_up_after_others()
            clock[0] += 10 * DEAD_SECONDS
            assert claim.exists()
    spool.clean_up_after_others()
    assert not claim.exists()
    spool.close()


def test_the_lock_is_held_from_the_moment_at_which_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a worker that starts at the same time takes this one for a dead predecessor."""
    others = [make_spool(tmp_path, "here-00000a"), make_spool(tmp_path, "here-00000b")]
    others[0].open()
    lock = fcntl.flock

    def start_another(stream: Any, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            monkeypatch.setattr(fcntl, "flock", lock)
            others[0].clean_up_after_others()
            others[1].open()
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", start_another)
    spool = make_spool(tmp_path)
    spool.open()
    with GuestTree(tmp_path) as tree:
        assert is_locked(tree, "here-000001")
    for one in (*others, spool):
        one.close()


@pytest.mark.parametrize("offset", [-3600.0, 3600.0])
def test_the_clock_of_another_machine_says_nothing_about_its_worker(
    tmp_path: Path, clock: list[float], offset: float
) -> None:
    """Neither the times in its heartbeat nor those of its files."""
    spool = make_spool(tmp_path)
    spool.open()
    for beat in range(3):
        claim = claimed_job(tmp_path, "there-00000c", beat=beat)
        file = tmp_path / "workers" / "there-00000c.json"
        file.write_text(json.dumps({"beat": beat, "time": time.time() + offset}))
        os.utime(file, (time.time() + offset,) * 2)
        spool.clean_up_after_others()
        clock[0] += DEAD_SECONDS - 1
    assert claim.exists()
    clock[0] += 2
    spool.clean_up_after_others()
    assert not claim.exists(), "it stands still, whatever its time is"
    spool.close()


def test_claims_of_a_worker_elsewhere_stay_while_its_heartbeat_changes(tmp_path: Path, clock: list[float]) -> None:
    """On file systems without locks the heartbeat alone shows that a worker lives."""
    spool = make_spool(tmp_path)
    spool.open()
    for beat in range(5):
        claim = claimed_job(tmp_path, "there-00000c", beat=beat)
        spool.clean_up_after_others()
        clock[0] += DEAD_SECONDS - 1
    assert claim.exists()
    spool.clean_up_after_others()
    assert claim.exists(), "the last heartbeat is not old enough"
    clock[0] += 2
    spool.clean_up_after_others()
    assert not claim.exists()
    spool.close()


def test_one_of_two_workers_gets_a_ticket(tmp_path: Path) -> None:
    first, second = make_spool(tmp_path), make_spool(tmp_path, "here-000002")
    first.open()
    second.open()
    (tmp_path / "jobs" / "job1").mkdir()
    ticket = {"format": "orch-ticket/1", "created": 5, "workers": ["here-000002"]}
    (first.tickets_folder / "job1.json").write_text(json.dumps(ticket))
    assert [one.may_take for one in first.read_tickets(first.list_tickets())] == [False]
    assert [one.may_take for one in second.read_tickets(second.list_tickets())] == [True]
    assert second.claim("job1")
    assert not first.claim("job1")
    second.finish_job("job1", 0)
    assert exit_of(tmp_path) == {"code": 0, "detail": None}
    assert not list((tmp_path / "claimed" / "here-000002").iterdir())
    for spool in (first, second):
        spool.close()


def test_workers_that_left_in_order_are_forgotten(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    spool.open()
    for number in range(30):
        other = make_spool(tmp_path, f"there-{number:06d}", "there")
        other.open()
        spool.clean_up_after_others()
        other.close()
    spool.clean_up_after_others()
    assert spool._last_beats == {}
    spool.close()
