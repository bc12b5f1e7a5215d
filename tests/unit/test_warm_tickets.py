"""Tickets that the kernel tells of, and those that come without a word."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from orch_runner.serving import spool as guest_spool
from orch_runner.serving.spool import Me, Spool
from orch_runner.serving.ticket_watch import TicketWatch


def test_a_rename_is_told_and_a_listing_adds_nothing(tmp_path: Path) -> None:
    watch = TicketWatch(tmp_path, poll=False)
    assert watch.descriptor is not None
    assert not watch.told()
    (tmp_path / ".aside").touch()
    (tmp_path / ".aside").rename(tmp_path / "a.json")
    assert watch.told()
    assert not watch.compare(["a.json"])
    assert not watch.compare([])
    os.close(watch.descriptor)


def test_a_file_that_came_without_a_word_turns_polling_on(tmp_path: Path) -> None:
    """As on a network mount: the listing shows what another machine put there."""
    watch = TicketWatch(tmp_path, poll=False)
    assert not watch.compare(["old.json"], first=True)
    assert not watch.compare(["old.json"])
    assert watch.compare(["old.json", "silent.json"])
    assert watch.descriptor is None
    assert watch.told()
    assert not watch.compare(["another.json"])


def test_asked_to_poll_or_with_nothing_to_watch_it_polls(tmp_path: Path) -> None:
    assert TicketWatch(tmp_path, poll=True).descriptor is None
    assert TicketWatch(tmp_path / "missing", poll=False).descriptor is None


def test_dead_workers_of_other_machines_are_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_spool, "STRANGER_SECONDS", 0.0)
    claimed, jobs, workers = tmp_path / "claimed" / "other-1", tmp_path / "jobs" / "j", tmp_path / "workers"
    for folder in (claimed, jobs, workers):
        folder.mkdir(parents=True)
    (claimed / "j.json").touch()
    (workers / "other-1.json").write_text("{}")
    me = Me("me-1", "s", "cpu", "cpu", "me", {"spool": str(tmp_path)})
    spool = Spool(me)
    spool.enter()
    spool.bury_strangers()
    assert claimed.is_dir()
    (workers / "other-1.json").write_text('{"beat": 2}')
    spool.bury_strangers()
    assert claimed.is_dir()
    time.sleep(0.01)
    spool.bury_strangers()
    assert not claimed.exists()
    assert json.loads((jobs / "exit.json").read_text())["code"] == 137
    spool.leave()
    assert [path.name for path in workers.iterdir()] == []
