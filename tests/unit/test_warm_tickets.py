"""Tickets that the kernel tells of, and those that come without a word."""

from __future__ import annotations

import os
from pathlib import Path

from orch_runner.tickets import TicketWatch


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
