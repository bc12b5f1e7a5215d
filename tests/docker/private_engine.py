"""A second engine for tests that need one set up in their own way: own data, bridge and socket; gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors

from orchestrator.system.container_engine import Engine

PATIENCE_SECONDS = 30.0
BRIDGE = "orch-test0"


def why_not() -> str | None:
    """Why no second engine can be started here; None if one can."""
    missing = [name for name in ("dockerd", "ip", "runc") if shutil.which(name) is None]
    if os.getuid() != 0:
        return "starting an engine needs root"
    return f"there is no {', '.join(missing)}" if missing else None


@contextmanager
def private_engine(
    folder: Path, settings: Mapping[str, Any] | None = None, first_on_path: tuple[Path, ...] = ()
) -> Iterator[Engine]:
    """A dockerd of its own with these settings in its daemon.json, its programs looked for in these folders first."""
    configuration = {
        "data-root": str(folder / "data"), "exec-root": str(folder / "exec"), "pidfile": str(folder / "pid"),
        "hosts": [f"unix://{folder / 'engine.sock'}"], "bridge": BRIDGE, "iptables": False, "ip6tables": False,
        **(settings or {}),
    }  # fmt: skip
    (folder / "daemon.json").write_text(json.dumps(configuration))
    path = os.pathsep.join([*(str(one) for one in first_on_path), os.environ["PATH"], "/usr/sbin", "/sbin"])
    subprocess.run(["ip", "link", "add", "name", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "10.213.77.1/24", "dev", BRIDGE], check=True)
        command = [shutil.which("dockerd", path=path) or "dockerd", "--config-file", str(folder / "daemon.json")]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": path},
                start_new_session=True,
            )  # fmt: skip
        try:
            client = _client(folder, process)
            try:
                yield Engine(client, configuration["hosts"][0], "private", client.info())
            finally:
                client.close()
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
    finally:
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)


def _client(folder: Path, process: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _listens(folder / "engine.sock"):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (folder / "log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"the engine does not answer:\n{tail}")
        time.sleep(0.1)
    return docker.DockerClient(base_url=f"unix://{folder / 'engine.sock'}", timeout=60)


def _listens(path: Path) -> bool:
    """Asked with a socket of our own: the SDK leaves those open that it could not connect."""
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
