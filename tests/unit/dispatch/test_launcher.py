"""job.json of four kinds of runs, byte for byte: built images read its fields by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.weights import Stored
from orchestrator.dispatch.launcher import Launcher
from orchestrator.inputs.collect import collect_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan.options import RunOptions
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import make_request
from orchestrator.runtimes.base import Exit, Prepared, Worker, WorkerSpec
from orchestrator.runtimes.guest_contract import GuestPaths
from orchestrator.runtimes.limits import NO_LIMITS, Limits

DOCUMENTS = Path(__file__).parent / "job_documents"
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "garments-tiny": ("cpu", "cpu", {"exif": "ignore", "batch_size": 3}),
    "amrcnn-r50-fpn": ("cuda", "cuda", {"settings": ["postprocess.max_total_size=50"], "score_threshold": 0.25}),
    "facere": ("cpu", "cpu", {"max_detections": 7}),
    "mesorch": ("cu121", "cuda", {}),
}
"""For each model, the variant and device of a run, and what its user asks."""


class _StartedWorker:
    def __init__(self, name: str) -> None:
        self.name = name

    def lines(self) -> Iterator[bytes]:
        yield from ()

    def wait(self) -> Exit:
        return Exit(0)

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class _NamingRuntime:
    """Starts nothing and names folders as containers do."""

    name = "docker"

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        names = ("data", "weights", "out", "cache", "job/queue", "opt/orch/stack")
        sources = {name: PurePosixPath("/opt/orch/sources", name) for name in prepared.stack.spec.sources}
        return GuestPaths(*(PurePosixPath("/", name) for name in names), sources=sources)

    def worker_owner(self) -> None: ...

    def limits_in_force(self, workers: int) -> Limits:
        return NO_LIMITS

    def start(self, prepared: Prepared, spec: WorkerSpec) -> Worker:
        return _StartedWorker(spec.name)


def make_launcher(
    folder: Path, model: str, variant: str, device: str, asked: dict[str, Any]
) -> tuple[Launcher, RunPaths]:
    """The launcher of a run of three images."""
    (folder / "in").mkdir()
    for number in range(3):
        (folder / "in" / f"{number}.jpg").write_bytes(b"x")
    entry = load_catalog().model(model)
    request = make_request(entry, RunOptions(images=[str(folder / "in")], **asked), "docker", variant, device)
    weights = {key: Stored(key, spec.file, None, "0" * 64, spec.package) for key, spec in entry.spec.weights.items()}
    inputs = collect_inputs([str(folder / "in")], folder / "unpacked")
    plan = Plan(request, entry, Prepared(entry.stack, variant, "docker", "identity", "image"), weights, inputs, 2)
    runtime: Any = _NamingRuntime()
    paths = RunPaths(folder / "run")
    return Launcher(plan, paths, runtime, [device], 3, folder / "weights"), paths


def write_job(folder: Path, model: str, variant: str, device: str, asked: dict[str, Any]) -> Path:
    """Have the launcher write a run's job.json; the file."""
    launcher, paths = make_launcher(folder, model, variant, device, asked)
    job = paths.job("w0-1")
    job.mkdir()
    launcher.start(0, "w0-1", job)
    return job / "job.json"


@pytest.mark.parametrize("model", RUNS)
def test_job_documents_stay_byte_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    assert write_job(tmp_path, model, *RUNS[model]).read_text() == (DOCUMENTS / f"{model}.json").read_text()


def test_folders_that_workers_share_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    launcher, paths = make_launcher(tmp_path, "facere", *RUNS["facere"])
    for name in ("w0-1", "w1-1"):
        paths.job(name).mkdir()
        launcher.start(0, name, paths.job(name))
    assert paths.logs.is_dir()
    assert (tmp_path / "weights").is_dir()
