"""One home, one set of images and one server of commands for all attacks; an arena for each runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.arena import Arena, write_images
from tests.hostile.commands import Commands
from tests.hostile.table import STACKS
from tests.hostile.warm_arena import WarmArena


@pytest.fixture(scope="session")
def hostile_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the hostile user's orch; $ORCH_TEST_CACHE keeps it between sessions."""
    kept = os.environ.get("ORCH_TEST_CACHE")
    home = Path(kept) / "hostile-home" if kept else tmp_path_factory.mktemp("hostile-home")
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="session")
def commands(hostile_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command line with the hostile stack: a copy of it, so that editing the stack changes no run under way."""
    stacks = tmp_path_factory.mktemp("hostile-stacks") / "stacks"
    shutil.copytree(STACKS, stacks, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"ORCH_HOME": str(hostile_home), "ORCH_STACKS": str(stacks), "NO_COLOR": "1"}
    environment["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("hostile-config"))
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
    if base:
        environment["ORCH_BASE_IMAGE"] = base
    commands = Commands(environment, tmp_path_factory.mktemp("hostile-commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def hostile_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of all runs, which anybody may read."""
    folder = tmp_path_factory.mktemp("hostile-images")
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    return write_images(folder / "images")


@pytest.fixture(scope="session")
def venv_arena(
    commands: Commands, hostile_home: Path, hostile_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Arena:
    """Cold runs whose workers are processes of this machine."""
    options = ("--runtime", "venv", "--no-warm", "--workers", "1")
    return Arena(commands, hostile_home, hostile_images, tmp_path_factory.mktemp("venv"), options)


@pytest.fixture(scope="session")
def docker_arena(
    commands: Commands, hostile_home: Path, hostile_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Arena:
    """Cold runs whose workers are containers."""
    options = ("--runtime", "docker", "--no-warm", "--workers", "1")
    return Arena(commands, hostile_home, hostile_images, tmp_path_factory.mktemp("docker"), options)


@pytest.fixture(scope="session")
def warm_arena(
    commands: Commands, hostile_home: Path, hostile_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WarmArena]:
    """Runs on a warm worker in a container, through the user's spool."""
    arena = WarmArena(commands, hostile_home, hostile_images, tmp_path_factory.mktemp("warm"), ("--warm",))
    yield arena
    arena.remove_worker()
