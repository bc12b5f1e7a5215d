"""`--runtime auto`: Docker where it can be used, else venv, said plainly; a run goes on as it was begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conformance.conftest import Orch
from tests.conformance.pictures import photograph


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """One photograph."""
    Image.fromarray(photograph()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def runtime_of(out: Path) -> str:
    return str(json.loads((out / "run.json").read_text())["request"]["runtime"])


@pytest.mark.docker
def test_auto_takes_venv_when_the_base_image_cannot_be_had(orch: Orch, image: Path, tmp_path: Path) -> None:
    common = ("run", "-m", "faulty", "-i", image, "--base-image", "127.0.0.1:9/no/such:base")
    done = orch(*common, "-o", tmp_path / "out")
    assert "base image" in done.stderr
    assert runtime_of(tmp_path / "out") == "venv"
    assert "complete already" in orch(*common, "-o", tmp_path / "out").stderr
    failed = orch(*common, "-o", tmp_path / "docker", "--runtime", "docker", expect=3)
    assert "--runtime venv" in failed.stderr
    assert not (tmp_path / "docker").exists()


@pytest.mark.docker
def test_a_self_test_takes_venv_too_when_the_base_image_cannot_be_had(orch: Orch, tmp_path: Path) -> None:
    """Its random weights are made in the environment, before there is a run."""
    common = ("selftest", "faulty-by-hand", "--base-image", "127.0.0.1:9/no/such:base")
    done = orch(*common, "--out", tmp_path / "out")
    assert "base image" in done.stderr
    assert runtime_of(tmp_path / "out" / "run") == "venv"
    orch(*common, "--out", tmp_path / "docker", "--runtime", "docker", expect=3)


@pytest.mark.docker
def test_auto_goes_on_with_the_runtime_a_run_was_begun_with(orch: Orch, image: Path, tmp_path: Path) -> None:
    orch("run", "-m", "faulty", "-i", image, "-o", tmp_path / "out", "--runtime", "venv")
    (tmp_path / "out" / "predictions.npz").unlink()
    again = orch("run", "-m", "faulty", "-i", image, "-o", tmp_path / "out")
    assert "runtime venv (as the run was begun)" in again.stderr
    other = orch("run", "-m", "faulty", "-i", image, "-o", tmp_path / "out", "--runtime", "docker", expect=2)
    assert "runtime was venv, now docker" in other.stderr


def test_without_an_engine_auto_takes_venv_and_docker_is_refused(
    orch: Orch, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(orch.environment, "DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    done = orch("run", "-m", "faulty", "-i", image, "-o", tmp_path / "out")
    assert "runtime venv (docker: no container engine answers" in done.stderr
    refused = orch("run", "-m", "faulty", "-i", image, "-o", tmp_path / "other", "--runtime", "docker", expect=4)
    assert "next: orch doctor" in refused.stderr
