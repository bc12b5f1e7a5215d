"""Candidate runtimes of a run: which are tried, in which order, and what ends the search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.errors import BaseImageError, MachineError, RuntimeUnsuitable, UsageError
from orchestrator.hardware import Selection
from orchestrator.paths import RunPaths
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes import registry
from orchestrator.runtimes.warm.select import NoWarmWorker, WarmSelection
from orchestrator.workflows import candidates
from orchestrator.workflows.candidates import Candidate, cold_candidates, runtime_candidates, why_not_warm

Install = Callable[..., None]


class FakeRuntime:
    """A runtime that this machine has or lacks."""

    def __init__(self, name: str, lacks: str | None = None) -> None:
        self.name, self._lacks = name, lacks

    def unavailable_reason(self) -> str | None:
        return self._lacks


class FakeWarm(FakeRuntime):
    """Warm workers."""

    has_started = closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put made-up runtimes in place of docker and venv; `docker` says why the machine has none."""

    def install(docker: str | None = None) -> None:
        def make(name: str) -> Any:
            return FakeRuntime(name, docker if name == "docker" else None)

        monkeypatch.setattr(registry, "get_runtime", make)
        monkeypatch.setattr(candidates, "get_runtime", make)

    install()
    return install


@pytest.mark.parametrize(
    ("options", "why_not"),
    [
        ({}, None),
        ({"warm": True, "runtime": "docker"}, None),
        ({"warm": False}, "--no-warm was given"),
        ({"runtime": "venv"}, "the runtime asked for is venv"),
        ({"runtime": "apptainer"}, "the runtime asked for is apptainer"),
        ({"executor": "slurm"}, "the executor slurm starts its own workers"),
        ({"weights_folder": Path("/w")}, "warm workers do not see its weights"),
    ],
)
def test_a_run_may_use_warm_workers_or_there_is_a_reason(
    options: dict[str, Any], why_not: str | None, tmp_path: Path
) -> None:
    assert why_not_warm(RunOptions(images=["x"], **options), RunPaths(tmp_path)) == why_not


def test_a_run_begun_with_another_runtime_does_not_use_warm_workers(tmp_path: Path) -> None:
    paths = begun(tmp_path, "venv")
    why_not = f"the run in {tmp_path} was begun with the runtime venv"
    assert why_not_warm(RunOptions(images=["x"]), paths) == why_not
    assert why_not_warm(RunOptions(images=["x"]), begun(tmp_path, "docker")) is None
    with pytest.raises(UsageError) as caught:
        list(all_of(RunOptions(images=["x"], runtime="venv", warm=True), paths, []))
    assert caught.value.why == "the runtime asked for is venv"


def test_without_an_engine_the_virtual_environment_is_first(install: Install) -> None:
    install(docker="no engine answers")
    (only,) = cold_candidates("auto", None, print)
    assert (only.runtime.name, only.why, only.is_last) == ("venv", "docker: no engine answers", True)


def test_a_runtime_that_is_asked_for_or_was_begun_with_is_the_only_one(install: Install) -> None:
    (asked,) = cold_candidates("docker", "venv", print)
    (resumed,) = cold_candidates("auto", "docker", print)
    assert (asked.runtime.name, asked.why, asked.is_last) == ("docker", "asked for", True)
    assert (resumed.runtime.name, resumed.why, resumed.is_last) == ("docker", "as the run was begun", True)


def test_the_next_runtime_is_tried_where_one_does_not_suit(install: Install) -> None:
    lines: list[str] = []
    tried = []
    for candidate in cold_candidates("auto", None, lines.append):
        with candidate:
            tried.append((candidate.runtime.name, candidate.why))
            if candidate.runtime.name == "docker":
                raise BaseImageError("cannot pull python:3.11", why="no registry answers")
    assert lines == ["not using docker: cannot pull python:3.11 (no registry answers)"]
    assert tried == [("docker", "the first that can be used"), ("venv", "docker: cannot pull python:3.11")]


@pytest.mark.parametrize("error", [MachineError("no space"), RuntimeUnsuitable("no GPU")])
def test_other_errors_and_those_of_the_last_runtime_end_the_run(install: Install, error: MachineError) -> None:
    def try_all() -> None:
        for candidate in cold_candidates("auto", None, lambda line: None):
            with candidate:
                if candidate.is_last or not isinstance(error, RuntimeUnsuitable):
                    raise error
                raise RuntimeUnsuitable("try the other one")

    with pytest.raises(MachineError) as caught:
        try_all()
    assert caught.value is error


@pytest.mark.parametrize(
    ("started", "warm", "falls_back"), [(False, None, True), (True, None, True), (False, True, False)]
)
def test_a_run_that_asked_for_no_warm_worker_does_without(started: bool, warm: bool | None, falls_back: bool) -> None:
    runtime: Any = FakeWarm("docker")
    runtime.has_started = started
    lines: list[str] = []
    candidate = Candidate(runtime, "", lines.append, bool(warm), runtime)
    try:
        with candidate:
            raise RuntimeUnsuitable("it does not see /data")
    except RuntimeUnsuitable:
        assert not falls_back
    else:
        assert falls_back
    begins = "continuing without" if started else "not using"
    assert lines == [f"{begins} a warm worker: it does not see /data; next: orch ps"] * falls_back
    assert runtime.closed


def test_warm_workers_come_first(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = FakeWarm("docker")
    monkeypatch.setattr(candidates, "select_warm", lambda *_: WarmSelection(runtime, "warm worker w", 3))
    first, *others = all_of(RunOptions(images=["x"]), RunPaths(tmp_path), [])
    assert (first.warm, first.threads, first.why, first.is_last) == (runtime, 3, "warm worker w", False)
    assert [one.runtime.name for one in others] == ["docker", "venv"]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (NoWarmWorker("none fits", why="none is up"), []),
        (
            RuntimeUnsuitable("none fits", why="another variant", hint="orch up s"),
            ["not using a warm worker: another variant; next: orch up s"],
        ),
        (OSError("the spool is broken"), ["not using a warm worker: the spool is broken; next: orch ps"]),
    ],
)
def test_without_fitting_warm_workers_a_run_starts_its_own(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, lines: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(candidates, "select_warm", fail)
    said: list[str] = []
    names = [one.runtime.name for one in all_of(RunOptions(images=["x"]), RunPaths(tmp_path), said)]
    assert (names, said) == (["docker", "venv"], lines)
    with pytest.raises(type(error)):
        all_of(RunOptions(images=["x"], warm=True), RunPaths(tmp_path), said)


def all_of(options: RunOptions, paths: RunPaths, said: list[str]) -> list[Candidate]:
    entry = load_catalog().model("garments-tiny")
    return list(runtime_candidates(entry, options, Selection("cpu", "cpu", ""), paths, said.append))


def begun(folder: Path, runtime: str) -> RunPaths:
    paths = RunPaths(folder)
    paths.run_json.write_text(json.dumps({"request": {"runtime": runtime}}))
    return paths
