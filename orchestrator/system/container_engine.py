"""Find the container engine: the SDK's client, and a command line that builds on the same engine."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.system.subprocesses import read_output

TIMEOUT = 60
HINT = "install Docker (https://docs.docker.com/engine/install), start it, then: orch doctor; or use --runtime venv"
_NO_RIGHTS = "permission denied"
_NO_RIGHTS_HINT = "sudo usermod -aG docker $USER, log in again, then: orch doctor; or use --runtime venv"


@dataclass(frozen=True)
class Engine:
    """A running engine: its API client, address, version and `docker info`."""

    client: Any
    url: str
    version: str
    info: Mapping[str, Any]

    @property
    def is_podman(self) -> bool:
        """Whether it is Podman's service, which answers like Docker but ignores some requests silently."""
        return "podman" in str(self.info.get("ServerVersion", "")).lower() or any(
            "podman" in str(part.get("Name", "")).lower() for part in self.info.get("Components", [])
        )

    @property
    def security(self) -> tuple[str, ...]:
        """Names of the engine's security options: seccomp, rootless, selinux."""
        options = self.info.get("SecurityOptions") or []
        return tuple(option.removeprefix("name=").partition(",")[0] for option in options)


@cache
def connect() -> Engine:
    """Connect to the engine of DOCKER_HOST, the current context, or a usual socket. Raises MachineError."""
    import docker
    import docker.errors

    reasons: list[str] = []
    for url in _candidates():
        client = None
        try:
            _require_listening(url)
            client = docker.DockerClient(base_url=url, timeout=TIMEOUT, **_tls(url))
            info = {**client.info(), "Components": client.version().get("Components") or []}
            return Engine(client, url, str(info.get("ServerVersion", "?")), info)
        except (docker.errors.DockerException, OSError, ValueError) as error:
            reasons.append(f"{url}: {_short(error)}")
            if client is not None:
                client.close()
    why = "; ".join(reasons)
    raise MachineError("no container engine answers", why=why, hint=_NO_RIGHTS_HINT if _NO_RIGHTS in why else HINT)


def _require_listening(url: str) -> None:
    """Connect to a Unix socket once. Raises OSError; the SDK leaves a socket open that it could not connect."""
    if url.startswith("unix://"):
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(TIMEOUT)
            probe.connect(url.removeprefix("unix://"))


def _candidates() -> list[str]:
    host = os.environ.get("DOCKER_HOST")
    if host:
        return [host]
    urls = [_context_host()]
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    sockets = [
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        Path.home() / ".docker/run/docker.sock",
        Path.home() / ".docker/desktop/docker.sock",
        runtime / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    ]
    urls += [f"unix://{socket}" for socket in sockets if os.access(socket, os.F_OK)]
    return list(dict.fromkeys(url for url in urls if url)) or ["unix:///var/run/docker.sock"]


def _context_host() -> str | None:
    """Return the address of the current docker context, or None for the default one."""
    from docker.context import ContextAPI
    from docker.errors import DockerException

    try:
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    except (DockerException, OSError, ValueError, KeyError):
        return None
    return None if context is None or context.Name == "default" else str(context.Host)


def _tls(url: str) -> dict[str, Any]:
    """Return the TLS settings that the docker command line takes from the environment."""
    if not os.environ.get("DOCKER_TLS_VERIFY") or url.startswith("unix:"):
        return {}
    from docker.tls import TLSConfig

    certificates = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    pair = (str(certificates / "cert.pem"), str(certificates / "key.pem"))
    return {"tls": TLSConfig(client_cert=pair, ca_cert=str(certificates / "ca.pem"), verify=True)}


def build_command() -> list[str]:
    """Return the command line that builds with BuildKit on the connected engine. Raises MachineError."""
    engine = connect()
    if engine.is_podman:
        podman = shutil.which("podman")
        if podman is None:
            raise MachineError("cannot build: the PATH has no podman command", hint="install podman")
        return [podman, "build"]
    problems: list[str] = []
    for client in _clients():
        problem = _cannot_build(client)
        if problem is None:
            return [client, "--host", engine.url, "build", "--progress=plain"]
        problems.append(f"{client}: {problem}")
    raise MachineError(
        "no docker command on this machine can build with BuildKit",
        why="; ".join(problems) or "the PATH has no docker command",
        hint="install the docker-buildx-plugin package (Debian: docker.io, or docker-buildx)",
    )


def _clients() -> list[str]:
    chosen = os.environ.get("ORCH_DOCKER")
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    clients = [chosen] if chosen else [shutil.which("docker", path=folder) for folder in folders]
    return list(dict.fromkeys(path for path in clients if path))


def _cannot_build(client: str) -> str | None:
    """Return why a docker command cannot build with BuildKit; from version 23 on it needs the buildx plugin."""
    version = read_output([client, "--version"])
    match = re.search(r"version (\d+)\.", version)
    if match is None:
        return "does not run"
    if int(match.group(1)) < 23 or read_output([client, "buildx", "version"]):
        return None
    return f"version {match.group(1)} without the buildx plugin"


def _short(error: Exception) -> str:
    text = str(error)
    if "No such file or directory" in text:
        return "no such socket"
    if "Permission denied" in text or "PermissionError" in text:
        return f"{_NO_RIGHTS} (are you in the group docker?)"
    if "Connection refused" in text:
        return "connection refused"
    return text.splitlines()[0][:200] if text else type(error).__name__
