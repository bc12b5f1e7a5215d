"""What a warm worker's heartbeat says of its memory, state and rate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from orch_runner.serving import heartbeat
from orch_runner.serving.heartbeat import RATE_SECONDS, HeartbeatWriter
from orch_runner.serving.spool import WorkerIdentity


def make_writer(root: Path) -> HeartbeatWriter:
    paths = {"data": str(root), "weights": str(root / "weights")}
    return HeartbeatWriter(WorkerIdentity("here-1", "tiny", "cpu", "cpu", "here", paths), {"ORCH_THREADS": "3"})


def make_pool(*loaded: bool) -> Any:
    processes = [SimpleNamespace(is_loaded=one, describe=dict) for one in loaded]
    return SimpleNamespace(processes=processes, rss_mb=100 * len(loaded), limit_mb=1000)


@pytest.mark.parametrize(("own", "total"), [(7, 207), (None, 200)])
def test_the_memory_is_that_of_the_models_and_the_workers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: int | None, total: int
) -> None:
    monkeypatch.setattr(heartbeat, "resident_mb", lambda pid: own)
    assert make_writer(tmp_path).make_document(make_pool(True, True), 0, 0)["rss_mb"] == total


@pytest.mark.parametrize(
    ("loaded", "jobs", "state"), [((), 0, "idle"), ((True,), 1, "busy"), ((True, False), 1, "loading")]
)
def test_the_state_is_that_of_models_and_jobs(tmp_path: Path, loaded: tuple[bool, ...], jobs: int, state: str) -> None:
    assert make_writer(tmp_path).make_document(make_pool(*loaded), 0, jobs)["state"] == state


def test_the_rate_is_that_of_the_last_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    writer = make_writer(tmp_path)
    writer.add_images(30)
    now[0] += RATE_SECONDS
    writer.add_images(60)
    documents = [writer.make_document(make_pool(), 0, 0)]
    now[0] += 1
    documents.append(writer.make_document(make_pool(), 0, 0))
    assert [(one["beat"], one["images"], one["images_per_s"]) for one in documents] == [(1, 90, 3.0), (2, 90, 2.0)]
