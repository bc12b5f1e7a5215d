"""All models of all stacks on all runtimes; stacks of $ORCH_STACKS join by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.scaffold import create_stack
from tests.conformance.pictures import write_difficult_folder

TEST_STACKS = Path(__file__).parent.parent / "stacks"
SKELETON = "skeleton"
RUNTIMES = [pytest.param("venv"), pytest.param("docker", marks=pytest.mark.docker)]


def model_names() -> list[str]:
    """All models that can run without a person fetching weights, and the skeleton that `orch new stack` writes."""
    models = load_catalog([TEST_STACKS]).models.values()
    ready = [one.name for one in models if not any(weight.manual or weight.url for weight in one.spec.weights.values())]
    return [*ready, f"{SKELETON}-example"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize over models and runtimes."""
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", model_names(), scope="session")
    if "runtime" in metafunc.fixturenames:
        metafunc.parametrize("runtime", RUNTIMES, scope="session")


@pytest.fixture(scope="session")
def orch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: environments and images are made once."""
    kept = os.environ.get("ORCH_TEST_CACHE")
    return Path(kept) / "orch-home" if kept else tmp_path_factory.mktemp("orch-home")


@pytest.fixture(scope="session")
def user_stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the skeleton."""
    folder = tmp_path_factory.mktemp("stacks")
    create_stack(SKELETON, folder)
    return folder


class Orch:
    """The command line, in a process of its own."""

    def __init__(self, home: Path, stacks: list[Path]) -> None:
        self.stacks = stacks
        base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
        self.environment = {
            **os.environ,
            "ORCH_HOME": str(home),
            "ORCH_LEASES": str(home / "leases"),
            **({"ORCH_BASE_IMAGE": base} if base else {}),
        }
        self.environment["ORCH_STACKS"] = os.pathsep.join(
            [*(str(one) for one in stacks), *filter(None, [os.environ.get("ORCH_STACKS")])]
        )

    def command(self, *arguments: object) -> list[str]:
        """The whole command."""
        return [sys.executable, "-m", "orchestrator", *(str(one) for one in arguments)]

    def __call__(self, *arguments: object, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run it and check its exit code."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )
        text = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, text
        assert expect is None or done.returncode == expect, text
        return done

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start it and go on."""
        return subprocess.Popen(
            self.command(*arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="session")
def orch(orch_home: Path, user_stacks: Path) -> Orch:
    """The command line with all stacks."""
    return Orch(orch_home, [TEST_STACKS, user_stacks])


@pytest.fixture(scope="session")
def difficult(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of image there is, and some that are none."""
    folder = tmp_path_factory.mktemp("difficult")
    write_difficult_folder(folder)
    return folder


_RUNS: dict[tuple[str, str], tuple[Path, Any]] = {}


@pytest.fixture
def difficult_run(orch: Orch, difficult: Path, model: str, runtime: str, tmp_path_factory: Any) -> tuple[Path, Any]:
    """The difficult folder predicted by one model on one runtime: run directory and finished process, made once."""
    key = (model, runtime)
    if key not in _RUNS:
        out = tmp_path_factory.mktemp("runs") / f"{model}-{runtime}"
        _RUNS[key] = out, orch("run", "-m", model, "-i", difficult, "--runtime", runtime, "-o", out, expect=None)
    return _RUNS[key]
