"""The local executor: what it does around the dispatcher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch import local
from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.executors import Work
from orchestrator.dispatch.local import LocalExecutor, make_slots
from orchestrator.dispatch.outcome import Outcome
from orchestrator.dispatch.sharing import NoSharing
from orchestrator.dispatch.slots import LeasedSlots, OwnedSlots
from orchestrator.hardware import Gpu
from orchestrator.hardware.machine import GpuProcess
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.system.display import SilentDisplay
from tests.unit.dispatch.slurm_samples import begun, make_plan

GPUS = ("cuda:GPU-a", "cuda:GPU-b")


class NoWorkers:
    """A runtime that no worker is started with."""

    name = "venv"

    def reap(self, run: str, jobs: Path) -> int:
        del run, jobs
        return 0


class Listening(SilentDisplay):
    """Keeps the lines it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def work(folder: Path, **more: Any) -> Work:
    runtime: Any = NoWorkers()
    return Work(
        make_plan(folder), RunPaths(folder / "run"), runtime, folder / "weights", **{"devices": ("cpu",), **more}
    )


def test_only_predicting_takes_its_turn_not_collecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    class OneAtATime(NoSharing):
        @contextmanager
        def predicting(self, device: str) -> Iterator[None]:
            steps.append(f"predicting on {device}")
            yield
            steps.append("predicted")

    def finish(plan: Plan, paths: RunPaths, result: DispatchResult) -> Outcome:
        steps.append("collected")
        return Outcome(paths, {"failed": 0})

    monkeypatch.setattr(local, "missing_shards", lambda plan, paths: [])
    monkeypatch.setattr(local, "finish", finish)
    begun(tmp_path, make_plan(tmp_path), job=None)
    assert LocalExecutor().execute(work(tmp_path, sharing=OneAtATime()), SilentDisplay()).complete
    assert steps == ["predicting on cpu", "predicted", "collected"]


def test_gpus_are_leased_unless_workers_have_theirs_already(tmp_path: Path) -> None:
    on_gpus, display = work(tmp_path, devices=GPUS), SilentDisplay()
    assert isinstance(make_slots(on_gpus, GPUS, 2, display), LeasedSlots)
    assert isinstance(make_slots(replace(on_gpus, leases=False), GPUS, 2, display), OwnedSlots)
    assert isinstance(make_slots(work(tmp_path), ("cpu",), 2, display), OwnedSlots)


def test_processes_on_the_gpus_are_reported_where_they_are_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "missing_shards", lambda plan, paths: [])
    monkeypatch.setattr(local, "finish", lambda plan, paths, result: Outcome(paths, {"failed": 0}))
    begun(tmp_path, make_plan(tmp_path), job=None)
    gpu = Gpu(0, "GPU-a", "Some GPU", 40960, "8.0", "550.54", free=1000, processes=(GpuProcess(7, 1000),))
    display = Listening()
    LocalExecutor().execute(work(tmp_path, devices=("cuda:GPU-a",), gpus=(gpu,)), display)
    assert "process 7" in display.lines[0]
    display = Listening()
    LocalExecutor().execute(work(tmp_path, devices=("cuda:GPU-a",), gpus=(gpu,), leases=False), display)
    assert display.lines == []
