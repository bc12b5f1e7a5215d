"""The same bytes, however many workers, interruptions or retries; the same arrays on every runtime."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator import Predictions
from tests.conformance.conftest import Orch
from tests.conformance.pictures import photograph

MANY, FEW = 48, 7


def write_photographs(folder: Path, count: int) -> Path:
    """Small images, no two alike."""
    for number in range(count):
        Image.fromarray(photograph(80 + number, 60 + number % 7)).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough of them for a run that can be interrupted."""
    return write_photographs(tmp_path_factory.mktemp("photographs"), MANY)


@pytest.fixture(scope="module")
def few_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few, for models that take their time."""
    return write_photographs(tmp_path_factory.mktemp("few"), FEW)


def digest(out: Path) -> str:
    return hashlib.sha256((out / "predictions.npz").read_bytes()).hexdigest()


def test_one_worker_three_workers_and_other_thread_counts(
    orch: Orch, few_photographs: Path, model: str, runtime: str, tmp_path: Path
) -> None:
    common = ("run", "-m", model, "-i", few_photographs, "--runtime", runtime, "-q")
    orch(*common, "-o", tmp_path / "one")
    orch(*common, "-o", tmp_path / "three", "--workers", 3)
    orch(*common, "-o", tmp_path / "threads", "--threads", 3)
    assert len({digest(tmp_path / name) for name in ("one", "three", "threads")}) == 1


@pytest.mark.docker
def test_docker_and_venv_give_equal_arrays(orch: Orch, few_photographs: Path, model: str, tmp_path: Path) -> None:
    loaded = []
    for runtime in ("venv", "docker"):
        orch("run", "-m", model, "-i", few_photographs, "--runtime", runtime, "-o", tmp_path / runtime)
        loaded.append(Predictions.load(tmp_path / runtime / "predictions.npz"))
    assert set(loaded[0].arrays) == set(loaded[1].arrays)
    for name in set(loaded[0].arrays) - {"meta"}:
        array = loaded[0].arrays[name]
        assert np.array_equal(array, loaded[1].arrays[name], equal_nan=array.dtype.kind == "f"), name


def test_killed_at_random_points_and_resumed(orch: Orch, photographs: Path, runtime: str, tmp_path: Path) -> None:
    """SIGKILL for orch itself, again and again, until one command gets through."""
    common = ("run", "-m", "faulty", "-i", photographs, "--runtime", runtime, "--shard-size", 4, "--set", "sleep=0.02")
    orch(*common, "-o", tmp_path / "whole")
    seed = 7
    chance = random.Random(seed)
    kills = 0
    for _ in range(4):
        process = orch.start(*common, "-o", tmp_path / "killed", "--workers", 2)
        _wait_for_shards(tmp_path / "killed", process, more=1)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    assert kills, "the run was never killed while it worked"
    orch(*common, "-o", tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def _wait_for_shards(out: Path, process: subprocess.Popen[str], more: int) -> None:
    """Until `more` further shards are there, or the process has ended."""
    before = len(list((out / "shards").glob("*.npz"))) if out.exists() else 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((out / "shards").glob("*.npz"))) >= before + more:
            return
        time.sleep(0.02)


def test_interrupted_stops_cleanly_says_how_to_resume_and_resumes(
    orch: Orch, photographs: Path, runtime: str, tmp_path: Path
) -> None:
    common = ("run", "-m", "faulty", "-i", photographs, "--runtime", runtime, "--shard-size", 8, "--set", "sleep=0.03")
    orch(*common, "-o", tmp_path / "whole")
    process = orch.start(*common, "-o", tmp_path / "stopped")
    _wait_for_shards(tmp_path / "stopped", process, more=1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command resumes it" in errors
    assert not (tmp_path / "stopped" / "predictions.npz").exists()
    again = orch(*common, "-o", tmp_path / "stopped")
    assert "resuming" in again.stderr
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert "complete already" in orch(*common, "-o", tmp_path / "stopped").stderr


def test_a_worker_that_dies_costs_nothing_and_one_that_always_dies_costs_its_image(
    orch: Orch, photographs: Path, runtime: str, tmp_path: Path
) -> None:
    common = ("run", "-m", "faulty", "-i", photographs, "--runtime", runtime, "--shard-size", 8)
    orch(*common, "-o", tmp_path / "once", "--set", "die_once=013")
    assert (Predictions.load(tmp_path / "once" / "predictions.npz").status == 0).all()
    done = orch(*common, "-o", tmp_path / "always", "--set", "die=013", "--batch-size", 4, expect=1)
    assert "013.png: the worker died on this image" in done.stderr
    predictions = Predictions.load(tmp_path / "always" / "predictions.npz")
    assert [file for file, status in zip(predictions.files, predictions.status, strict=True) if status] == ["013.png"]
