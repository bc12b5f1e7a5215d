"""When an engine is asked whether its containers see and may use this machine's folders; no engine is needed."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from orchestrator.errors import MachineError
from orchestrator.runtimes.docker import folder_probe, runtime
from orchestrator.runtimes.docker.folder_probe import require_access, require_visible
from orchestrator.system.container_engine import Engine


def engine(url: str = "unix:///x.sock", client: object = None, **info: object) -> Engine:
    facts = {"Name": socket.gethostname(), "DockerRootDir": "/", "OperatingSystem": "Debian", **info}
    return Engine(client, url, "20.10", facts)


@pytest.mark.parametrize(
    ("other", "asked"),
    [
        ({}, False),
        ({"url": "tcp://10.0.0.1:2376"}, True),
        ({"url": "ssh://user@host"}, True),
        ({"Name": "another-host"}, True),
        ({"DockerRootDir": "/not/here"}, True),
        ({"OperatingSystem": "Docker Desktop"}, True),
    ],
)
def test_only_an_engine_that_may_be_elsewhere_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], asked: bool
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(folder_probe, "_look", lambda _, folder, token: looked.append(folder))
    monkeypatch.setattr("os.path.lexists", lambda path: False)
    require_visible(engine(**other), [tmp_path])
    assert bool(looked) == asked
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_seen_ends_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_probe, "_look", lambda *_: "it has another file of that name")
    with pytest.raises(MachineError) as caught:
        require_visible(engine("tcp://far:2376"), [tmp_path])
    assert caught.value.message == f"the engine at tcp://far:2376 does not see {tmp_path}"
    assert caught.value.hint == folder_probe.HINT
    assert list(tmp_path.iterdir()) == []


class Container:
    def __init__(self, code: int) -> None:
        self._code, self.is_removed = code, False

    def wait(self, timeout: int) -> dict[str, int]:
        return {"StatusCode": self._code}

    def logs(self, **_: object) -> bytes:
        return b"Traceback\nPermissionError: [Errno 13] Permission denied: '/job'\n"

    def remove(self, force: bool) -> None:
        self.is_removed = force


@pytest.mark.parametrize(
    ("options", "code", "refused"),
    [
        (["name=seccomp"], 1, False),
        (["name=userns"], 0, False),
        (["name=userns"], 1, True),
        (["name=selinux"], 1, True),
    ],
)
def test_engines_that_map_users_are_tried(options: list[str], code: int, refused: bool) -> None:
    container = Container(code)
    asked: list[dict[str, Any]] = []

    def start(_: Engine, settings: dict[str, Any]) -> Container:
        asked.append(settings)
        return container

    settings = {"name": "orch-1", "command": ["python", "-m", "orch_runner"], "user": "7:7"}
    if refused:
        with pytest.raises(MachineError, match="workers cannot use their folders: the engine has") as caught:
            require_access(engine(SecurityOptions=options), settings, start)
        assert caught.value.why == "PermissionError: [Errno 13] Permission denied: '/job'"
        assert caught.value.hint == folder_probe.USERS_HINT
    else:
        require_access(engine(SecurityOptions=options), settings, start)
    assert [one["user"] for one in asked] == (["7:7"] if options != ["name=seccomp"] else [])
    assert container.is_removed == bool(asked)


@pytest.mark.parametrize("words", folder_probe.MISSING)
def test_a_mount_that_the_engine_refuses_has_the_next_step(words: str) -> None:
    def create(**_: object) -> None:
        raise docker.errors.APIError(f"400: {words}: /x")

    client = SimpleNamespace(containers=SimpleNamespace(create=create))
    settings = {"name": "orch-1", "mounts": [], "ulimits": [], "device_requests": []}
    with pytest.raises(MachineError) as caught:
        runtime.start_container(engine(client=client), settings)
    assert caught.value.hint == folder_probe.HINT
