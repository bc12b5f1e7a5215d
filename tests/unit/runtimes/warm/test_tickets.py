"""Tickets that inotify reports, and those that it misses."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from orch_runner.serving import spool as guest_spool
from orch_runner.serving.spool import WorkerIdentity, WorkerSpool
from orch_runner.serving.ticket_watch import TicketWatch


def test_a_rename_is_reported_and_a_listing_adds_nothing(tmp_path: Path) -> None:
    watch = TicketWatch(tmp_path, poll=False)
    assert watch.descriptor is not None
    assert not watch.has_news()
    (tmp_path / ".aside").touch()
    (tmp_path / ".aside").rename(tmp_path / "a.json")
    assert watch.has_news()
    assert not watch.turn_to_polling(["a.json"])
    assert not watch.turn_to_polling([])
    os.close(watch.descriptor)


def test_a_file_that_inotify_missed_turns_polling_on(tmp_path: Path) -> None:
    """As on a network mount: the listing shows what another machine put there."""
    watch = TicketWatch(tmp_path, poll=False)
    assert not watch.turn_to_polling(["old.json"], first=True)
    assert not watch.turn_to_polling(["old.json"])
    assert watch.turn_to_polling(["old.json", "silent.json"])
    assert watch.descriptor is None
    assert watch.has_news()
    assert not watch.turn_to_polling(["another.json"])


def test_asked_to_poll_or_with_nothing_to_watch_it_polls(tmp_path: Path) -> None:
    assert TicketWatch(tmp_path, poll=True).descriptor is None
    assert TicketWatch(tmp_path / "missing", poll=False).descriptor is None


def test_dead_workers_of_other_machines_are_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_spool, "DEAD_SECONDS", 0.0)
    claimed, jobs, workers = tmp_path / "claimed" / "other-1", tmp_path / "jobs" / "j", tmp_path / "workers"
    for folder in (claimed, jobs, workers):
        folder.mkdir(parents=True)
    (claimed / "j.json").touch()
    (workers / "other-1.json").write_text("{}")
    identity = WorkerIdentity("me-1", "s", "cpu", "cpu", "me", {"spool": str(tmp_path)})
    spool = WorkerSpool(identity)
    spool.open()
    spool.clean_up_after_others()
    assert claimed.is_dir()
    (workers / "other-1.json").write_text('{"beat": 2}')
    spool.clean_up_after_others()
    assert claimed.is_dir()
    time.sleep(0.01)
    spool.clean_up_after_others()
    assert not claimed.exists()
    assert json.loads((jobs / "exit.json").read_text())["code"] == 137
    spool.close()
    assert [path.name for path in workers.iterdir()] == []
