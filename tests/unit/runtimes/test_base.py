"""Which runtime is taken, and why."""

from __future__ import annotations

import pytest

from orchestrator.errors import MachineError, UsageError
from orchestrator.runtimes.base import RUNTIMES, Runtime, choose_runtime, make_runtime
from orchestrator.runtimes.docker.runtime import DockerRuntime
from orchestrator.runtimes.venv import VenvRuntime


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DockerRuntime, "available", lambda self: "no engine")


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_can_be_made_and_has_all_that_one_has(name: str) -> None:
    runtime = make_runtime(name)
    assert runtime.name == name
    assert [member for member in vars(Runtime) if not member.startswith("_") and not hasattr(runtime, member)] == []


def test_docker_is_taken_where_an_engine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DockerRuntime, "available", lambda self: None)
    runtime, why = choose_runtime("auto")
    assert (runtime.name, why) == ("docker", "an engine answers")
    assert choose_runtime("venv")[1] == "asked for"


@pytest.mark.usefixtures("no_engine")
def test_venv_is_taken_where_none_does_and_the_reason_is_told() -> None:
    runtime, why = choose_runtime("auto")
    assert (runtime.name, why) == ("venv", "docker: no engine")
    with pytest.raises(MachineError, match="the runtime docker cannot be used here") as caught:
        choose_runtime("docker")
    assert (caught.value.why, caught.value.hint) == ("no engine", "orch doctor")


@pytest.mark.usefixtures("no_engine")
def test_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VenvRuntime, "available", lambda self: "no Python")
    with pytest.raises(MachineError, match="no runtime can be used here") as caught:
        choose_runtime("auto")
    assert caught.value.why == "docker: no engine; venv: no Python"


def test_an_unknown_runtime() -> None:
    with pytest.raises(UsageError, match="there is no runtime 'podman'") as caught:
        choose_runtime("podman")
    assert caught.value.why == "there is auto, docker, venv, apptainer"
