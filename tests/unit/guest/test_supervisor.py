"""A warm worker that is stopped, or whose job is, while the job changes from one model process to another."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from orch_runner.serving import supervisor
from orch_runner.serving.spool import WorkerIdentity, WorkerSpool
from orch_runner.serving.supervisor import Supervisor

from tests.unit.guest.job_samples import make_job, put_shard

JOB = "job1"


class HandingOver:
    """A model process that has just handed its job over when a command reaches it, and then ends when it is told to."""

    made: Sequence[HandingOver] = ()
    on_serve: Callable[[], None]

    def __init__(self, first_job: Path, load_key: str, model: str, private: bool, can_evict: bool = False) -> None:
        self.load_key, self.model, self.private = load_key, model, private
        self.is_loaded, self.is_usable, self.is_idle = True, True, False
        self.jobs: set[str] = set()
        self.idle_since, self.rss_mb, self.gpu_mb, self.images = time.monotonic(), 1, None, 0
        self.exit = first_job.with_name("exit.json")
        self.descriptor, self._reports = os.pipe()
        self._has_handed_over = False
        HandingOver.made = [*HandingOver.made, self]

    def serve(self, job: str, folder: Path, seen: list[str], sequence: int) -> None:
        assert len(HandingOver.made) == 1, "the job is started again"
        self.jobs.add(job)
        HandingOver.on_serve()

    def _hand_over(self, *job: str) -> None:
        if not self._has_handed_over:
            self._has_handed_over = True
            os.write(self._reports, b"report")

    stop = drop = shut_down = _hand_over

    def read_reports(self) -> Iterator[dict[str, Any]]:
        if self._has_handed_over and self.jobs:
            yield {"event": "handed_over", "job": JOB, "seen": [], "sequence": 3, "images": 1}
        if self.exit.exists():
            os.kill(os.getpid(), signal.SIGTERM)

    def release(self, job: str) -> None:
        self.jobs.discard(job)

    def has_exited(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        return {}

    def kill(self) -> None:
        """Close its pipe."""
        for end in (self.descriptor, self._reports):
            os.close(end)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A warm worker with a job in its spool, in this process; one that does not end fails after a while."""

    def fail(number: int, frame: Any) -> None:
        raise AssertionError("the worker does not end")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    identity = WorkerIdentity("me-000001", "tiny", "cpu", "cpu", "me", {
        **dict.fromkeys(("data", "weights", "cache", "opt"), str(tmp_path)), "spool": str(tmp_path),
    })  # fmt: skip
    spool = WorkerSpool(identity)
    spool.open()
    make_job(tmp_path / "jobs" / JOB)
    put_shard(tmp_path / "jobs" / JOB, 0)
    ticket = {"format": "orch-ticket/1", "job": JOB, "created": 0.0}
    (tmp_path / "tickets" / f"{JOB}.json").write_text(json.dumps(ticket))
    monkeypatch.setattr(supervisor, "ModelProcessHandle", HandingOver)
    monkeypatch.setattr(HandingOver, "made", ())
    signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    try:
        yield Supervisor(identity, spool, {"ORCH_MEMORY_MB": "1000", "ORCH_POLL": "1"})
    finally:
        signal.alarm(0)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        spool.close()


def exit_code(root: Path) -> object:
    return json.loads((root / "jobs" / JOB / "exit.json").read_text())["code"]


def test_sigterm_while_a_job_changes_processes_ends_job_and_worker(
    worker: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_serve = staticmethod(lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(HandingOver, "on_serve", on_serve, raising=False)
    assert worker.run() == 143
    assert exit_code(tmp_path) == 143
    assert list((tmp_path / "claimed" / "me-000001").iterdir()) == []


@pytest.mark.parametrize(("sign", "code"), [("stop", 143), ("kill", 137)])
def test_a_job_stopped_while_it_changes_processes_is_not_started_again(
    worker: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str, code: int
) -> None:
    on_serve = staticmethod((tmp_path / "jobs" / JOB / sign).touch)
    monkeypatch.setattr(HandingOver, "on_serve", on_serve, raising=False)
    assert worker.run() == 143
    assert exit_code(tmp_path) == code
    (process,) = HandingOver.made
    assert process.is_usable, "a process that keeps nothing gets further jobs"
