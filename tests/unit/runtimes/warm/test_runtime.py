"""Which of the workers that are up may take a run's job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import WorkerSpec
from orchestrator.runtimes.warm import runtime
from orchestrator.runtimes.warm.discover import DiscoveredWorker, Needs
from orchestrator.runtimes.warm.heartbeat import parse_heartbeat
from orchestrator.runtimes.warm.runtime import WarmRuntime
from tests.unit.runtimes.test_docker import SPEC
from tests.unit.runtimes.warm.warm_samples import FakeWorker, heartbeat

NEEDS = Needs("faulty", "cpu", "cpu", "0123456789ab", {}, {})


def discovered(name: str, data: str | None = "/photos", **paths: str) -> DiscoveredWorker:
    document = heartbeat(id=name)
    return DiscoveredWorker(
        parse_heartbeat({**document, "paths": {**document["paths"], **paths}}), None if data is None else Path(data)
    )


def test_a_job_is_for_workers_with_the_same_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[Any] = []
    monkeypatch.setattr(runtime, "WarmWorker", lambda spool, spec: specs.append(spec))
    workers = [
        discovered("first"), discovered("same"), discovered("elsewhere", "/other"), discovered("unknown", None),
        discovered("other-opt", opt="/opt/other"),
    ]  # fmt: skip
    spool = FakeWorker(tmp_path / "spool").spool
    warm = WarmRuntime.of_run(spool, NEEDS, RunPaths(tmp_path / "run"), lambda: workers, print)
    spec: WorkerSpec = replace(SPEC, job=warm.paths.job("w0"), name="w0", roots=[])
    prepared: Any = None
    spec.job.mkdir()
    warm.start(prepared, spec)
    (job,) = specs
    assert job.workers == ["first", "same"]
