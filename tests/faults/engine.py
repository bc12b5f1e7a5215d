"""Containers on a private engine, which is restarted under them; the machine's own engine is left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.workers import DockerWorkers, find_processes, kill

if TYPE_CHECKING:
    from tests.faults.cases import Case

ANSWER_SECONDS = 60.0
DOWN_SECONDS = 1.0


class PrivateEngine:
    """A dockerd with folders, a bridge and a socket of its own; without a bridge it would delete the other engine's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bridge = f"orchf{os.getpid()}"
        subprocess.run(["ip", "link", "add", "name", self._bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "address", "add", "10.213.78.1/24", "dev", self._bridge], check=True)
        self.address = f"unix://{folder / 'engine.sock'}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        settings = {
            "data-root": str(folder / "data"), "exec-root": str(folder / "exec"), "pidfile": str(folder / "pid"),
            "hosts": [self.address], "bridge": self._bridge, "iptables": False, "ip6tables": False,
        }  # fmt: skip
        (folder / "daemon.json").write_text(json.dumps(settings))

    def start(self) -> None:
        """Start it and wait until it answers."""
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
        command = [shutil.which("dockerd", path=path) or "dockerd", "--config-file", str(self.folder / "daemon.json")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PATH": path},
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + ANSWER_SECONDS
        while subprocess.run(["docker", "--host", self.address, "info"], capture_output=True, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the engine does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, or kill it."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(ANSWER_SECONDS)

    def restart(self, *, kill: bool = False) -> None:
        """Stop it, with the containers or, killed, without them, and start it again."""
        self.stop(kill=kill)
        time.sleep(DOWN_SECONDS)
        # containerd dies with dockerd, and another dockerd would wait for a dead one whose number is in use.
        for file in (self.folder / "pid", self.folder / "exec" / "containerd" / "containerd.pid"):
            file.unlink(missing_ok=True)
        self.start()

    def close(self) -> None:
        """Stop it and what a killed one left running."""
        self.stop()
        kill(find_processes(str(self.folder / "exec")))
        subprocess.run(["ip", "link", "delete", self._bridge], check=False)

    def copy_image(self, image: str, environment: Mapping[str, str]) -> None:
        """Copy an image from the machine's own engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE, env=dict(environment)) as saving:
            subprocess.run(
                ["docker", "--host", self.address, "load", "-q"], stdin=saving.stdout, check=True, capture_output=True
            )


class EngineWorkers(DockerWorkers):
    """Workers in containers of the private engine."""

    limit = 240.0

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.private = case.setup.engine
        assert self.private is not None
        self.engine = self.private.address
