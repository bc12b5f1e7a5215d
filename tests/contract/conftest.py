"""The Pythons that the runner is tested under: the tests' own, and a real 3.8 where one is named."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.runtimes.environments import LOCKED, WHEELS
from tests.contract.harness import REPOSITORY, Guest

LOCK = Path(__file__).parent / "py38.lock"


def make_environment(interpreter: str) -> str:
    """The Python of an environment with py38.lock installed, made once. Raises CalledProcessError."""
    cache = Path(os.environ.get("ORCH_TEST_CACHE") or REPOSITORY / ".cache" / "tests")
    digest = hashlib.sha256(LOCK.read_bytes() + os.path.realpath(interpreter).encode()).hexdigest()[:12]
    folder = cache / f"py38-{digest}"
    python = str(folder / "bin" / "python")
    if (folder / "complete").exists():
        return python
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], **run)  # type: ignore[call-overload]
    # No `pip check`: the lock leaves out matplotlib, which pycocotools draws with.
    locked = [*LOCKED, *WHEELS, "--quiet", "-r", str(LOCK)]
    with_pip = [python, "-m", "pip", "install", "--disable-pip-version-check", *locked]
    with_uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python, *locked]
    command = with_uv if importlib.util.find_spec("uv") else with_pip
    subprocess.run(command, **run)  # type: ignore[call-overload]
    (folder / "complete").touch()
    return python


@pytest.fixture(scope="session")
def python38() -> str:
    """A Python 3.8 that has what the runner needs."""
    interpreter = os.environ.get("ORCH_TEST_PYTHON38")
    if not interpreter:
        reason = "ORCH_TEST_PYTHON38 does not name a Python 3.8"
        if os.environ.get("ORCH_REQUIRE_PYTHON38"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        return make_environment(interpreter)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"cannot make an environment for Python 3.8: {error}\n{error.stderr}")


@pytest.fixture
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter to run the guest under: the tests' own unless asked for another (harness.every_python)."""
    other = getattr(request, "param", "own") == "3.8"
    return str(request.getfixturevalue("python38")) if other else sys.executable


@pytest.fixture
def make_guest(python: str, tmp_path: Path) -> Iterator[Callable[[str], Guest]]:
    """Makes guests, each in a folder of its own."""
    guests: list[Guest] = []

    def make(name: str) -> Guest:
        guests.append(Guest(python, tmp_path / name))
        return guests[-1]

    yield make
    for guest in guests:
        for running in guest.started:
            running.close()


@pytest.fixture
def guest(make_guest: Callable[[str], Guest]) -> Guest:
    """A guest with empty folders."""
    return make_guest("guest")
