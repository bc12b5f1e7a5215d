"""Claims: one holder each, kept while renewed, taken over when not, whatever the clocks of the machines say."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from orchestrator.dispatch.shared.claims import Claims

LEASE = 100.0


def claims(folder: Path, holder: str, lease: float = LEASE) -> Claims:
    return Claims(folder, holder, lease)


def aged(folder: Path, name: str, seconds: float) -> None:
    """As if nobody had renewed it for so long."""
    then = time.time() - seconds
    os.utime(folder / name, (then, then))


def test_of_many_who_try_one_gets_it(tmp_path: Path) -> None:
    got: list[str] = []
    start = threading.Barrier(8)

    def one_try(holder: str) -> None:
        mine = claims(tmp_path, holder)
        start.wait()
        if mine.take("00007"):
            got.append(holder)

    threads = [threading.Thread(target=one_try, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert (tmp_path / "00007").read_text() == got[0]


def test_what_is_released_is_free_again_and_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    with claims(tmp_path, "a") as first:
        assert first.take("1")
        assert first.take("2")
        assert first.list_own() == ("1", "2")
        first.release("1")
        assert claims(tmp_path, "b").take("1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"], "only what another holds"


def test_a_claim_is_taken_over_once_its_lease_ran_out_and_not_before(tmp_path: Path) -> None:
    dead, heir = claims(tmp_path, "dead"), claims(tmp_path, "heir")
    dead.take("1")
    aged(tmp_path, "1", LEASE - 10)
    assert not heir.take_over("1")
    aged(tmp_path, "1", LEASE + 10)
    assert heir.take_over("1")
    assert (tmp_path / "1").read_text() == "heir"
    dead.release("1")
    assert (tmp_path / "1").read_text() == "heir", "what was taken over is not the dead one's to release"


def test_of_many_who_take_over_one_gets_it(tmp_path: Path) -> None:
    claims(tmp_path, "dead").take("1")
    aged(tmp_path, "1", LEASE + 10)
    heirs = [claims(tmp_path, f"h{number}") for number in range(5)]
    assert [heir.take_over("1") for heir in heirs] == [True, False, False, False, False]


def test_a_claim_that_changed_hands_while_it_was_looked_at_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, quick, slow = (claims(tmp_path, name) for name in ("dead", "quick", "slow"))
    dead.take("1")
    aged(tmp_path, "1", LEASE + 10)
    read = Path.read_text

    def read_and_be_late(path: Path, encoding: str | None = None) -> str:
        text = read(path, encoding=encoding)
        if path.name == "1" and text == "dead":
            monkeypatch.setattr(Path, "read_text", read)
            assert quick.take_over("1")
        return text

    monkeypatch.setattr(Path, "read_text", read_and_be_late)
    assert not slow.take_over("1")
    assert (tmp_path / "1").read_text() == "quick"
    assert slow.list_own() == ()
    assert not list(tmp_path.glob(".1.*"))


def test_a_holder_at_work_keeps_what_it_has(tmp_path: Path) -> None:
    with claims(tmp_path, "a", lease=0.3) as mine:
        mine.take("1")
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline:
            assert claims(tmp_path, "b", lease=0.3 * 3).find_stale(["1"]) == []
            time.sleep(0.05)


def test_age_is_told_by_the_file_system_not_by_this_machines_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims(tmp_path, "a").take("1")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert claims(tmp_path, "b").find_stale(["1"]) == []


def test_files_that_are_no_claims_are_not_listed(tmp_path: Path) -> None:
    mine = claims(tmp_path, "a")
    mine.take("1")
    mine.find_stale(["1"])
    assert mine.list_all() == {"1"}
