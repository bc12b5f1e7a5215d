"""orch works when installed from its wheel, without a checkout: stacks, Dockerfiles and the runner are inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.runtimes.environments import find_uv
from tests.conformance.pictures import photograph

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `orch` command of a fresh environment that has the wheel."""
    uv = find_uv()
    if uv is None:
        pytest.skip("uv is not installed: it builds the wheel")
    folder = tmp_path_factory.mktemp("installed")

    def step(*command: object) -> None:
        done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    step(uv, "build", "--wheel", "--out-dir", folder, ROOT)
    step(uv, "venv", "--python", sys.executable, folder / "env")
    step(uv, "pip", "install", "--python", folder / "env" / "bin" / "python", next(folder.glob("*.whl")))
    return folder / "env" / "bin" / "orch"


def test_a_wheel_has_all_that_a_run_needs(installed: Path, orch_home: Path, tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(photograph(100 + number)).save(tmp_path / f"{number}.png")
    # Away from the checkout, so that nothing is found there by accident.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ORCH_HOME": str(orch_home)}
    passed = ("SSL_CERT_FILE", "PIP_CERT", "PYENV_ROOT", "UV_CACHE_DIR")
    environment |= {name: os.environ[name] for name in passed if name in os.environ}

    def orch(*arguments: str) -> str:
        done = subprocess.run(
            [installed, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert {"garments-tiny", "ppocr-det"} <= {one["name"] for one in json.loads(orch("models", "--json"))["models"]}
    assert "site-packages" in orch("models", "show", "garments-tiny")
    orch("run", "-m", "garments-tiny", "-i", str(tmp_path), "--runtime", "venv", "-o", "out")
    orch("validate", "out")
    orch("new", "stack", "mine")
    orch("run", "--stacks", "stacks", "-m", "mine-example", "-i", str(tmp_path / "0.png"), "--runtime", "venv")
