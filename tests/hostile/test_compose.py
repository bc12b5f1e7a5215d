"""A few attacks by a worker that Compose started: the same code as `orch up`'s, but another user's set-up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.docker.test_compose import docker
from tests.hostile.commands import Commands
from tests.hostile.table import attacks
from tests.hostile.test_cold import check
from tests.hostile.warm_arena import WarmArena

pytestmark = pytest.mark.docker
NAMES = (
    "part-link-and-dies",
    "spool-new-jobs-swapped-for-links",
    *(
        pytest.param(name, marks=pytest.mark.nightly)
        for name in (
            "shard-link-to-secret",
            "spool-log-link",
            "spool-job-is-link-at-the-end",
            "spool-reaper-led-outside",
            "spool-heartbeat-claims-another-user",
        )
    ),
)


@dataclass
class ComposeArena(WarmArena):
    """Starts its worker by Compose."""

    project: str = ""

    def start_worker(self) -> None:
        """Write the files, and bring the service up."""
        if self.is_up:
            return
        written = (
            self.commands.run("build", "hostile", "--runtime", "docker"),
            self.commands.run("compose", "--out", self.folder / "compose.yaml", ORCH_SPOOL=str(self.spool)),
            self.commands.run("compose", "--env", "--out", self.folder / ".env", ORCH_SPOOL=str(self.spool)),
        )
        for done in written:
            assert done.code == 0, done
        self.compose("--profile", "hostile", "up", "-d", "--wait", "hostile")
        self.is_up = True

    def _caches(self) -> list[Path]:
        """Return the volumes of the project: Compose keeps the workers' caches in them."""
        label = f"label=com.docker.compose.project={self.project}"
        command = [docker(), "volume", "ls", "--quiet", "--filter", label]
        names = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
        if not names:
            return []
        command = [docker(), "volume", "inspect", "--format", "{{.Mountpoint}}", *names]
        return [Path(line) for line in subprocess.check_output(command, text=True, timeout=60).splitlines()]

    def remove_worker(self) -> None:
        """Bring everything down, and remove the spool."""
        if self.is_up:
            self.compose("--profile", "all", "down", "--volumes", "--timeout", "2")
        self.is_up = False
        subprocess.run(["rm", "-rf", str(self.spool)], check=False, capture_output=True, timeout=120)

    def compose(self, *arguments: str) -> None:
        """Call Compose on this project's files."""
        named = ("-p", self.project, "-f", str(self.folder / "compose.yaml"), "--env-file", str(self.folder / ".env"))
        done = subprocess.run(
            [docker(), "compose", *named, *arguments],
            env={**os.environ, **self.commands.environment, "ORCH_SPOOL": str(self.spool)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def compose_arena(
    commands: Commands, hostile_home: Path, hostile_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeArena]:
    docker()
    folder = tmp_path_factory.mktemp("compose")
    spool = folder / "spool"
    arena = ComposeArena(
        commands,
        hostile_home,
        hostile_images,
        folder,
        ("--warm", "--spool", str(spool)),
        spool=spool,
        project=f"orch-hostile-{uuid4().hex[:8]}",
    )
    yield arena
    arena.remove_worker()


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_worker_of_compose(compose_arena: ComposeArena, name: str) -> None:
    (attack,) = (one for one in attacks() if one.name == name)
    check(attack, compose_arena.fight([attack]))
