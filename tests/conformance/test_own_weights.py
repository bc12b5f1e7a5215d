"""A model.yaml on the light stacks: the base model's arrays, its image, a weights folder of its own, warm or cold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator import Predictions
from orchestrator.catalog.bundled import STACKS
from tests.conformance.conftest import Orch
from tests.conformance.pictures import photograph
from tests.conformance.test_warm import Warm, assert_equal, make_warm, python_of

__all__ = ["make_warm"]

GARMENTS = STACKS / "garments" / "weights" / "garments-tiny.onnx"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(photograph(90 + number, 70)).save(folder / f"{number}.png")
    return folder


def new_model(orch: Orch, folder: Path, like: str, weights: Path, *more: str) -> Path:
    """Make the model `own`; the folder of stacks it is in."""
    orch("new", "model", "own", "--like", like, "--weights", weights, "--into", folder / "own-stacks", *more)
    return folder / "own-stacks"


def load(out: Path) -> Predictions:
    return Predictions.load(out / "predictions.npz")


@pytest.mark.parametrize("base", ["garments-tiny", "ppocr-det"])
def test_it_gives_the_arrays_of_its_base(
    orch: Orch, base: str, runtime: str, photographs: Path, tmp_path: Path
) -> None:
    if base == "garments-tiny":
        weights, categories = GARMENTS, "a,b,c,d,e,f"
    else:
        python = Path(python_of(orch, "textlines"))
        (weights,) = python.parent.parent.rglob("ch_PP-OCRv4_det_infer.onnx")
        categories = "word"
    mine = tmp_path / "mine.onnx"
    shutil.copyfile(weights, mine)
    stacks = new_model(orch, tmp_path, base, mine, "--categories", categories)
    for model, out in ((base, "base"), ("own", "own")):
        named = () if model == base else ("--stacks", stacks)
        orch("run", *named, "-m", model, "-i", photographs, "--runtime", runtime, "-o", tmp_path / out)
    assert_equal(tmp_path / "base", tmp_path / "own")
    theirs, ours = load(tmp_path / "base").meta, load(tmp_path / "own").meta
    assert theirs["build"] == ours["build"], "the same environment or image"
    assert (ours["model"], ours["categories"]) == (
        "own",
        [{"id": number, "name": name} for number, name in enumerate(categories.split(","), 1)],
    )
    stack = {"garments-tiny": "garments", "ppocr-det": "textlines"}[base]
    assert (Path(orch.environment["ORCH_HOME"]) / "weights" / stack / "own" / weights.name).is_file()


def test_other_weights_are_another_run(orch: Orch, photographs: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    shutil.copyfile(GARMENTS, mine)
    command = ("run", "--stacks", new_model(orch, tmp_path, "garments-tiny", mine), "-m", "own", "-i", photographs,
               "--runtime", "venv", "-o", tmp_path / "run")  # fmt: skip
    orch(*command)
    assert "complete already" in orch(*command).stderr
    mine.write_bytes(GARMENTS.read_bytes() + b"\x32\x05other")  # a graph's documentation, which changes no prediction
    refused = orch(*command, expect=2).stderr
    assert "other weights onnx" in refused
    assert "--update" in refused
    updated = orch(*command, "--update").stderr
    assert "0 of 4 images are kept" in updated
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    assert summary["resolved"]["weights"]["onnx"]["sha256"] != load_digest(GARMENTS)


def load_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_warm_workers_serve_it_from_the_same_folder_of_weights(
    orch: Orch, make_warm: Callable[[str], Warm], tmp_path: Path
) -> None:
    warm = make_warm("garments").start()
    photos = warm.pictures(3)
    mine = tmp_path / "mine.onnx"
    shutil.copyfile(GARMENTS, mine)
    stacks = new_model(orch, tmp_path, "garments-tiny", mine)
    orch("run", "-m", "garments-tiny", "-i", photos, "--runtime", "venv", "-o", tmp_path / "cold")
    said = orch(*warm.command("own", photos, tmp_path / "warm"), "--stacks", stacks).stderr
    assert "warm worker" in said
    assert_equal(tmp_path / "cold", tmp_path / "warm")
    assert np.array_equal(load(tmp_path / "warm").scores, load(tmp_path / "cold").scores)
