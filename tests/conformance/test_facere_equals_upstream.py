"""A facere run, exported, is record by record what FashionFail's own script would have written; random weights."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.workflows.demo.photographs import fetch_photographs
from tests.conformance.conftest import Orch

REFERENCE = Path(__file__).parent / "facere" / "reference.py"
SIZES = ((600, 400), (427, 640), (320, 320), (1100, 730), (240, 500))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of various sizes, two of them grey, as RGB files."""
    folder = tmp_path_factory.mktemp("photographs")
    sources = sorted(fetch_photographs(tmp_path_factory.mktemp("fetched")).iterdir())
    for number in range(10):
        image = Image.open(sources[number % len(sources)]).convert("RGB").resize(SIZES[number % len(SIZES)])
        image.save(folder / f"{number}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def weights(orch: Orch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, made by the self-test and added as if they were published ones."""
    kept = tmp_path_factory.mktemp("selftest") / "kept"
    done = orch("selftest", "facere", "--runtime", "venv", "--device", "cpu", "--out", kept)
    assert "the numbers mean nothing" in done.stderr
    path = kept / "weights" / "facere_base.onnx"
    orch("weights", "add", "--force", "facere", path)
    return path


@pytest.fixture(scope="module")
def expected(orch_home: Path, weights: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What upstream's steps give."""
    pythons = sorted(orch_home.glob("envs/facere-cpu-*/bin/python"), key=lambda path: path.lstat().st_mtime)
    out = tmp_path_factory.mktemp("reference") / "expected.npz"
    subprocess.run([pythons[-1], REFERENCE, weights, photographs, out], check=True)
    return np.load(out, allow_pickle=True)["data"]


@pytest.mark.nightly  # minutes on a CPU
@pytest.mark.parametrize("paste", ["cut", "graph"])
def test_records_are_equal(orch: Orch, expected: Any, photographs: Path, paste: str, tmp_path: Path) -> None:
    common = ("run", "-m", "facere", "-i", photographs, "--runtime", "venv", "--device", "cpu")
    orch(*common, "--set", f"paste={paste}", "-o", tmp_path / "run", "--exif", "ignore")
    orch("export", tmp_path / "run", "--format", "fashionfail", "-o", tmp_path / "ours.npz")
    ours = np.load(tmp_path / "ours.npz", allow_pickle=True)["data"]
    assert len(ours) == len(expected) == 10
    assert sum(len(record["scores"]) for record in expected) > 20, "too little was found to compare"
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine["image_file"] == theirs["image_file"]
        for name in ("boxes", "classes", "scores"):
            assert mine[name].dtype == theirs[name].dtype, name
            assert np.array_equal(mine[name], theirs[name]), (mine["image_file"], name)
        assert [dict(mask) for mask in mine["masks"]] == [dict(mask) for mask in theirs["masks"]]
