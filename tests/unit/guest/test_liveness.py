"""A host lives while its file changes, whatever any clock says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from orch_runner.liveness import Liveness


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which a test sets."""
    clock = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


@pytest.mark.parametrize("offset", [-300.0, 0.0, 300.0])
def test_a_change_counts_whatever_the_time_of_the_file_is(tmp_path: Path, now: list[float], offset: float) -> None:
    alive = tmp_path / "alive"
    alive.touch()
    host = Liveness(alive, 60)
    for beat in range(5):
        os.utime(alive, (time.time() + offset + beat,) * 2)
        now[0] += 50
        assert not host.has_timed_out()
    now[0] += 50
    assert not host.has_timed_out()
    now[0] += 11
    assert host.has_timed_out()


def test_a_file_server_that_does_not_change_the_time_hides_no_change(tmp_path: Path, now: list[float]) -> None:
    alive = tmp_path / "alive"
    host = Liveness(alive, 60)
    for beat in range(5):
        alive.write_text(str(beat))
        os.utime(alive, (1000, 1000))
        now[0] += 50
        assert not host.has_timed_out()


def test_a_file_that_is_gone_for_a_while_ends_nothing(tmp_path: Path, now: list[float]) -> None:
    alive = tmp_path / "alive"
    alive.touch()
    host = Liveness(alive, 60)
    assert not host.has_timed_out()
    now[0] += 50
    alive.unlink()
    assert not host.has_timed_out()
    now[0] += 50
    alive.touch()
    assert not host.has_timed_out()
