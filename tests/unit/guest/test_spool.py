"""A warm worker's clean-up after others: jobs of dead workers end, those of living workers are never touched."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from orch_runner.serving import spool as spools
from orch_runner.serving.spool import DEAD_SECONDS, RESTARTED, WorkerIdentity, WorkerSpool

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
