"""What a job logs is bounded: a warm worker serves it for days."""

from __future__ import annotations

from pathlib import Path

import pytest
from orch_runner import events
from orch_runner.events import bind_log, log


def test_the_log_of_a_job_ends_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BOUND_LOG_BYTES", 1000)
    with (tmp_path / "worker.log").open("a", encoding="utf-8") as stream:
        bind_log(stream)
        try:
            for number in range(100):
                log(f"line {number}")
        finally:
            bind_log(None)
    assert (tmp_path / "worker.log").stat().st_size < 1100
