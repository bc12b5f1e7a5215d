"""Finding the engine and a command line that can build on it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from orchestrator.errors import MachineError
from orchestrator.system import container_engine as engine_module
from orchestrator.system.container_engine import Engine, build_command

connect = engine_module.connect.__wrapped__  # as if nobody had asked before


class FakeClient:
    """What answers under an address: `answers` by URL, or an error to raise."""

    answers: dict[str, dict[str, Any] | Exception]
    asked: list[str]

    def __init__(self, base_url: str, timeout: int, **_: object) -> None:
        self.asked.append(base_url)
        answer = self.answers.get(base_url, docker.errors.DockerException("No such file or directory"))
        if isinstance(answer, Exception):
            raise answer
        self._answer = answer

    def info(self) -> dict[str, Any]:
        return self._answer

    def version(self) -> dict[str, Any]:
        components = self._answer.get("version")
        if isinstance(components, Exception):
            raise components
        return {"Components": components}

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClient.answers, FakeClient.asked = {}, []
    monkeypatch.setattr(docker, "DockerClient", FakeClient)
    monkeypatch.setattr(engine_module, "_require_listening", lambda url: None)
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_docker_host_is_the_only_one_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://there:2375")
    FakeClient.answers = {"tcp://there:2375": {"ServerVersion": "28.1", "SecurityOptions": ["name=seccomp,profile=x"]}}
    found = connect()
    assert (found.url, found.version, found.security, found.is_podman) == (
        "tcp://there:2375",
        "28.1",
        ("seccomp",),
        False,
    )
    assert FakeClient.asked == ["tcp://there:2375"]


def test_sockets_are_tried_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "run" / "podman").mkdir(parents=True)
    for name in ("docker.sock", "podman/podman.sock"):
        (tmp_path / "run" / name).touch()
    podman = f"unix://{tmp_path}/run/podman/podman.sock"
    FakeClient.answers = {podman: {"ServerVersion": "5.0", "version": [{"Name": "Podman Engine"}]}}
    found = connect()
    assert (found.url, found.is_podman) == (podman, True)
    assert f"unix://{tmp_path}/run/docker.sock" in FakeClient.asked


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (docker.errors.DockerException("Error: Permission denied"), "permission denied (are you in the group docker?)"),
        (docker.errors.DockerException("FileNotFoundError: No such file or directory"), "no such socket"),
        (OSError("Connection refused"), "connection refused"),
        (ValueError("something\nelse"), "something"),
    ],
)
def test_no_engine_is_an_error_with_reasons(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    FakeClient.answers = {"unix:///x": error}
    with pytest.raises(MachineError, match="no container engine answers") as caught:
        connect()
    assert caught.value.why == f"unix:///x: {said}"
    assert "orch doctor" in str(caught.value.hint)
    assert ("usermod -aG docker" in str(caught.value.hint)) == ("permission" in said)


def test_no_socket_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real SDK: it leaves a socket open that it could not connect, which is a warning, thus an error here."""
    monkeypatch.undo()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(MachineError) as caught:
        connect()
    assert caught.value.why == f"unix://{tmp_path}/none.sock: no such socket"
    gc.collect()


def test_an_engine_that_breaks_off_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    FakeClient.answers = {"unix:///x": {"version": docker.errors.APIError("gone")}}
    with pytest.raises(MachineError, match="no container engine answers"):
        connect()


def script(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def version(number: int, *, buildx: bool) -> str:
    plugin = "echo v0.20" if buildx else "exit 1"
    return f'case "$1" in --version) echo "Docker version {number}.0.1, build x";; *) {plugin};; esac'


@pytest.fixture
def docker_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "connect", lambda: Engine(None, "unix:///e", "28", {}))


@pytest.mark.usefixtures("docker_engine")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (version(28, buildx=True), None),
        (version(20, buildx=False), None),
        (version(28, buildx=False), "version 28 without the buildx plugin"),
        ("exit 1", "does not run"),
        ("echo podman version 4", "does not run"),
    ],
)
def test_a_client_must_be_able_to_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str | None
) -> None:
    client = script(tmp_path / "bin" / "docker", text)
    monkeypatch.setenv("ORCH_DOCKER", client)
    if problem is None:
        assert build_command() == [client, "--host", "unix:///e", "build", "--progress=plain"]
        return
    with pytest.raises(MachineError, match="no docker command on this machine can build") as caught:
        build_command()
    assert caught.value.why == f"{client}: {problem}"


@pytest.mark.usefixtures("docker_engine")
def test_the_first_client_that_can_build_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "old" / "docker", version(28, buildx=False))
    good = script(tmp_path / "new" / "docker", version(28, buildx=True))
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:{tmp_path / 'new'}:/usr/bin:/bin")
    assert build_command()[0] == good


def test_podman_builds_with_podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "connect", lambda: Engine(None, "x", "5", {"ServerVersion": "5-podman"}))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MachineError, match="no podman command"):
        build_command()
    podman = script(tmp_path / "bin" / "podman", "")
    assert build_command() == [podman, "build"]
