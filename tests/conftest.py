"""What all tests share: a cache and stacks of their own, and what happens to tests where there is no engine or GPU."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.hardware import detect_machine
from orchestrator.system.container_engine import connect
from tests.chromium import find_chromium


@cache
def engine_problem() -> str | None:
    """Why no container engine answers; None if one does."""
    try:
        connect()
    except MachineError as error:
        return f"{error.message} ({error.why})"
    return None


def pytest_configure() -> None:
    """Undo what tests and the commands that they start would inherit from a CI job, or from a shell's background."""
    os.environ.pop("GITHUB_STEP_SUMMARY", None)  # runs would append to the job's summary
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it


@cache
def gpu_problem() -> str | None:
    """Why no GPU is there; None if one is."""
    try:
        found = detect_machine().usable_gpus()
    except MachineError as error:
        return f"{error.message} ({error.why})"
    return None if found else "no GPU is found on this machine"


def browser_problem() -> str | None:
    """Why no browser is there; None if one is."""
    return None if find_chromium() else "no Chromium is installed (Debian: apt-get install chromium)"


NEEDED = {
    "docker": (engine_problem, "ORCH_REQUIRE_DOCKER"),
    "gpu": (gpu_problem, "ORCH_REQUIRE_GPU"),
    "browser": (browser_problem, "ORCH_REQUIRE_BROWSER"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked docker, gpu or browser are skipped without one, except where one is required."""
    for marker, (problem_of, variable) in NEEDED.items():
        problem = problem_of() if item.get_closest_marker(marker) is not None else None
        if problem is not None and os.environ.get(variable):
            pytest.fail(f"{variable} is set, but {problem}", pytrace=False)
        if problem is not None:
            pytest.skip(problem)


def pytest_sessionfinish() -> None:
    """Close the connection to the engine: a socket left open is a warning, and warnings are errors."""
    if connect.cache_info().currsize:
        connect().client.close()
        connect.cache_clear()


@pytest.fixture(autouse=True)
def _base_image(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker tests build on $ORCH_TEST_BASE_IMAGE where it is set: CI reaches no image registry."""
    base = os.environ.get("ORCH_TEST_BASE_IMAGE")
    if request.node.get_closest_marker("docker") is None:
        monkeypatch.delenv("ORCH_BASE_IMAGE", raising=False)
    elif base:
        monkeypatch.setenv("ORCH_BASE_IMAGE", base)


@pytest.fixture
def orch_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and none of the caller's own stacks and settings; gives the cache folder."""
    home = tmp_path_factory.mktemp("orch-home")
    monkeypatch.setenv("ORCH_HOME", str(home))
    monkeypatch.setenv("ORCH_LEASES", str(home / "leases"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    for name in ("ORCH_STACKS", "ORCH_DOCKER", "ORCH_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    return home
