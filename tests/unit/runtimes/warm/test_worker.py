"""A job in the spool as a worker of the dispatcher: the other side is played by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtimes.base import Exit
from orchestrator.runtimes.warm import heartbeat
from orchestrator.runtimes.warm import worker as warm_worker
from orchestrator.runtimes.warm.worker import JobSpec, WarmWorker
from tests.unit.runtimes.warm.warm_samples import FakeWorker

JOB = "key-w0-1"


class Case:
    """A placed job, followed in a thread of its own."""

    def __init__(self, worker: FakeWorker, root: Path) -> None:
        self.worker, self.log = worker, root / "w.log"
        self.folder = worker.jobs / JOB
        (self.folder / "queue").mkdir(parents=True)
        self.spec = JobSpec(
            "w0-1",
            self.folder,
            "faulty-bright",
            [worker.id],
            self.log,
        )
        self.warm = WarmWorker(worker.spool, self.spec)
        self.lines: list[dict[str, Any]] = []
        self._sequence = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.warm.lines():
            self.lines.append(json.loads(line))

    def order(self) -> None:
        (self.folder / "queue" / "00000.json").write_text("{}")

    def claimed(self) -> None:
        until(lambda: self.worker.claim(JOB))

    def emit(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        with (self.folder / "events.jsonl").open("a") as events:
            events.write(json.dumps({"event": event, "seq": self._sequence, **fields}) + "\n")

    def exit(self, code: int, detail: str | None = None) -> None:
        (self.folder / "exit.json").write_text(json.dumps({"code": code, "detail": detail}))

    def ended(self) -> Exit:
        return self.warm.wait()


def until(holds: Callable[[], object]) -> None:
    done = threading.Event()
    for _ in range(6000):
        if holds():
            return
        done.wait(0.01)
    raise AssertionError("never came")


def test_the_ticket_waits_for_a_shard_and_the_log_comes_home(worker: FakeWorker, tmp_path: Path) -> None:
    case = Case(worker, tmp_path)
    ticket = worker.tickets / f"{JOB}.json"
    assert not ticket.exists()
    case.order()
    until(ticket.exists)
    assert json.loads(ticket.read_text())["workers"] == ["box-1"]
    case.claimed()
    case.emit("hello")
    case.emit("shard_done", shard=0)
    until(lambda: len(case.lines) == 2)
    (case.folder / "worker.log").write_text("text\n")
    case.emit("bye")
    case.exit(0)
    assert case.ended() == Exit(0, False, None)
    assert [(one["event"], one["seq"]) for one in case.lines] == [("hello", 1), ("shard_done", 2), ("bye", 3)]
    case.warm.close()
    assert case.log.read_text() == "text\n"
    assert not case.folder.exists()


def test_an_end_is_told_with_its_reason(worker: FakeWorker, tmp_path: Path) -> None:
    case = Case(worker, tmp_path)
    case.order()
    case.claimed()
    case.exit(137, "out of memory")
    assert case.ended() == Exit(137, True, "out of memory")


def test_without_a_shard_there_is_no_ticket(worker: FakeWorker, tmp_path: Path) -> None:
    case = Case(worker, tmp_path)
    (case.folder / "queue" / "end").touch()
    assert case.ended() == Exit(0)
    assert not list(worker.tickets.iterdir())


def test_stopping_an_unclaimed_job_takes_its_ticket_back(
    worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_worker, "HEARTBEAT_CHECK_SECONDS", 0.01)
    case = Case(worker, tmp_path)
    case.order()
    until(lambda: list(worker.tickets.glob("*.json")))
    case.warm.terminate()
    assert case.ended() == Exit(143)
    assert not list(worker.tickets.iterdir())


def test_a_killed_job_is_over_soon_whatever_the_worker_does(
    worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_worker, "KILL_SECONDS", 0.1)
    case = Case(worker, tmp_path)
    case.order()
    case.claimed()
    case.warm.kill()
    assert (case.folder / "kill").exists()
    assert case.ended() == Exit(137)


@pytest.mark.parametrize("claims", [True, False])
def test_a_worker_that_goes_away_is_noticed(
    worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims: bool
) -> None:
    monkeypatch.setattr(warm_worker, "HEARTBEAT_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "UNLOCKED_SECONDS", 0.2)
    case = Case(worker, tmp_path)
    case.order()
    until(lambda: list(worker.tickets.glob("*.json")))
    if claims:
        case.claimed()
    worker.close()
    ended = case.ended()
    expected = "the warm worker is gone" if claims else "the warm worker left before it took the job"
    assert ended == Exit(137, False, expected)


def test_a_job_that_waits_long_is_said_to_be_alive(
    worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_worker, "WAITING_SIGN_SECONDS", 0.05)
    case = Case(worker, tmp_path)
    case.order()
    until(lambda: len(case.lines) >= 2)
    case.claimed()
    case.emit("hello")
    until(lambda: case.lines[-1]["event"] == "hello")
    (case.folder / "waiting").touch()
    until(lambda: case.lines[-1]["event"] == "heartbeat")
    (case.folder / "waiting").unlink()
    said = len(case.lines)
    assert not threading.Event().wait(0.3)
    assert len(case.lines) <= said + 1  # what is claimed and does not wait speaks for itself, or is hung
    case.exit(0)
    case.ended()
    assert [one["seq"] for one in case.lines] == list(range(1, len(case.lines) + 1))


def test_a_job_is_given_up_only_where_idle_workers_do_not_take_it(
    worker: FakeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_worker, "LOST_SECONDS", 0.3)
    monkeypatch.setattr(warm_worker, "HEARTBEAT_CHECK_SECONDS", 0.05)
    busy = True
    monkeypatch.setattr(warm_worker.WarmWorker, "_is_any_busy", lambda self: busy)
    case = Case(worker, tmp_path)
    case.order()
    assert not threading.Event().wait(1)
    assert case.warm._exit is None, "others are served first"
    busy = False
    ended = case.ended()
    assert (ended.code, ended.detail) == (137, "the warm worker has nothing to do, but does not take the job")
