"""The time that a batch may take: what counts as progress, what a limit is derived from, and what a hang costs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import Predictions
from orchestrator.cli import main
from orchestrator.dispatch.batch_timer import (
    BATCH_FACTOR,
    BATCH_SECONDS,
    FIRST_BATCH_SECONDS,
    BatchLimits,
    BatchTimer,
    make_batch_limits,
)
from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.runtimes.registry import RUNTIMES
from tests.unit.conftest import MakePhoto
from tests.unit.plain_runtime import PlainRuntime

STACKS = str(Path(__file__).parents[2] / "stacks")
READY = {"event": "ready", "seconds": 3.0}
STARTED = {"event": "shard_started", "shard": 0, "reused": 0}
BEAT = {"event": "heartbeat"}


class Watched:
    """A worker's events at made-up times."""

    def __init__(self, limits: BatchLimits, slot: int = 0) -> None:
        self.now, self.state = 100.0, WorkerState()
        self.timer = BatchTimer(limits, slot, self.now)
        self.send(READY)
        self.send(STARTED)

    def send(self, event: dict[str, Any], after: float = 0.0) -> float | None:
        self.now += after
        self.state.apply(event)
        return self.timer.update(event, self.state, self.now)

    def done(self, images: int, after: float = 0.0) -> float | None:
        return self.send({"event": "progress", "shard": 0, "done": images}, after)

    def beats(self, seconds: float) -> float | None:
        """Heartbeats for so long; the limit exceeded at the last one."""
        exceeded = None
        for _ in range(int(seconds / 2)):
            exceeded = self.send(BEAT, 2.0)
        return exceeded


def test_a_worker_that_only_sends_heartbeats_exceeds_the_limit() -> None:
    worker = Watched(BatchLimits())
    worker.done(1)
    assert worker.beats(BATCH_SECONDS) is None
    assert worker.beats(2) == BATCH_SECONDS


def test_a_limit_is_derived_from_the_slowest_batch() -> None:
    limits = BatchLimits()
    worker = Watched(limits)
    worker.done(1)
    worker.beats(40)
    worker.done(2)
    assert limits.limit(0, is_first=False) == pytest.approx(BATCH_FACTOR * 40)
    assert worker.beats(BATCH_FACTOR * 40) is None
    assert worker.beats(2) is not None


def test_the_first_batch_of_a_worker_may_compile() -> None:
    limits = BatchLimits()
    worker = Watched(limits)
    assert worker.beats(1200) is None
    worker.done(1)
    assert limits.slowest == 0.0, "compiling says nothing about batches"
    assert worker.beats(BATCH_SECONDS + 4) == BATCH_SECONDS
    assert Watched(limits).beats(1200) is None, "the next worker on that device may compile again"
    assert Watched(BatchLimits(fixed=5.0)).beats(1200) is None
    assert Watched(BatchLimits()).beats(FIRST_BATCH_SECONDS + 4) == FIRST_BATCH_SECONDS


def test_a_device_that_began_at_once_is_not_waited_for_that_long_again() -> None:
    limits = BatchLimits()
    Watched(limits).done(1, after=2.0)
    assert Watched(limits).beats(BATCH_SECONDS + 4) == BATCH_SECONDS
    assert Watched(limits, slot=1).beats(1200) is None, "another device may be one that compiles"


def test_an_image_that_cannot_be_decoded_is_no_first_batch() -> None:
    worker = Watched(BatchLimits())
    worker.send({"event": "image_failed", "shard": 0, "index": 0})
    worker.done(1)
    assert worker.beats(1200) is None
    worker.done(2)
    assert worker.beats(BATCH_SECONDS + 4) is not None


def test_rows_of_an_earlier_worker_are_no_first_batch() -> None:
    worker = Watched(BatchLimits())
    worker.send({"event": "shard_started", "shard": 1, "reused": 8})
    worker.send({"event": "image_failed", "shard": 1, "index": 8})
    worker.send({"event": "progress", "shard": 1, "done": 9})
    assert worker.beats(1200) is None


def test_a_worker_without_a_shard_takes_no_time() -> None:
    worker = Watched(BatchLimits(fixed=3.0))
    worker.done(1)
    worker.send({"event": "shard_done", "shard": 0, "images": 1})
    assert worker.beats(100_000) is None


def test_time_in_which_nothing_was_read_is_not_the_workers() -> None:
    """A host that was stopped, or waits for its disk, must not blame the images."""
    worker = Watched(BatchLimits())
    worker.done(1)
    assert worker.send(BEAT, after=10_000) is None
    assert worker.beats(100) is None


def test_zero_is_no_limit() -> None:
    worker = Watched(BatchLimits(fixed=0.0))
    worker.done(1)
    assert worker.beats(1_000_000) is None


def test_a_declared_compile_time_raises_the_limit_of_the_first_batch() -> None:
    def plan(jit_minutes: int | None) -> Any:
        variants = {"cu": SimpleNamespace(jit_minutes=jit_minutes)}
        stack = SimpleNamespace(spec=SimpleNamespace(variants=variants))
        return SimpleNamespace(entry=SimpleNamespace(stack=stack), request=SimpleNamespace(variant="cu"))

    assert make_batch_limits(plan(None), None).first == FIRST_BATCH_SECONDS
    assert make_batch_limits(plan(30), None).first == 3600


def test_an_image_on_which_predict_hangs_fails_alone(
    tmp_path: Path, photo: MakePhoto, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PlainRuntime, "folder", tmp_path)
    monkeypatch.setitem(RUNTIMES, "plain", PlainRuntime)
    for number in range(4):
        photo(tmp_path / "images" / f"{number}.png", (30, 30))
    arguments = ["run", "-m", "faulty", "-i", str(tmp_path / "images"), "-o", str(tmp_path / "run"), "--set", "hang=2"]
    limited = ["--batch-timeout", "1", "--runtime", "plain", "--stacks", STACKS, "--json"]
    assert main([*arguments, *limited]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == 1
    predictions = Predictions.load(tmp_path / "run" / "predictions.npz")
    assert predictions.status.tolist() == [0, 0, 1, 0]
    reason = r"a batch took longer than [0-9.]+ s, --batch-timeout changes the limit"
    assert re.search(reason, str(predictions.error[2]))
