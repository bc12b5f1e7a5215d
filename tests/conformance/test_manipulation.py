"""Manipulation localization: a picture of the probability for each image, of its size, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator import Predictions
from tests.conformance.conftest import Orch
from tests.conformance.pictures import SIZES, UNREADABLE, photograph

MODEL = "faulty-forged"


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of various sizes; names that collide in every way."""
    folder = tmp_path_factory.mktemp("seven")
    names = ["a/x.png", "b/x.png", "y.jpg", "y.png", "z.png", "deep/er/z.bmp", "w.png"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(60 + 13 * number, 50 + 7 * number)).save(folder / name)
    return folder


def content(out: Path) -> dict[str, str]:
    """Digests of the predictions and of all mask pictures."""
    files = [out / "predictions.npz", *(out / "masks").rglob("*.png")]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_image_has_its_mask_whatever_the_batches_and_workers(
    orch: Orch, seven: Path, runtime: str, tmp_path: Path
) -> None:
    common = ("run", "-m", MODEL, "-i", seven, "--runtime", runtime, "--batch-size", 2, "--shard-size", 2, "-q")
    for workers in (1, 2, 4):
        orch(*common, "--workers", workers, "-o", tmp_path / str(workers))
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "4")
    predictions = Predictions.load(tmp_path / "1" / "predictions.npz")
    assert len(predictions) == 7
    assert predictions.image_scores is not None
    assert not np.isnan(predictions.image_scores).any()
    for number, record in enumerate(predictions):
        file = record["image_file"]
        brightness = np.asarray(Image.open(seven / file).convert("RGB")).max(axis=2)
        with Image.open(tmp_path / "1" / "masks" / f"{file}.png") as picture:
            assert picture.mode == "L"
            assert np.array_equal(np.asarray(picture), brightness)
        (row,) = range(*predictions.rows(number).indices(len(predictions.scores)))
        assert np.array_equal(predictions.mask(row), brightness > 127)
        assert record["scores"].tolist() == [np.float32(brightness.max() / 255)]
    assert not (tmp_path / "1" / "shards" / "masks").exists()


def test_the_threshold_is_a_setting_that_is_recorded(orch: Orch, seven: Path, tmp_path: Path) -> None:
    orch("run", "-m", MODEL, "-i", seven, "--runtime", "venv", "--set", "mask_threshold=1", "-o", tmp_path / "out")
    predictions = Predictions.load(tmp_path / "out" / "predictions.npz")
    assert predictions.meta["settings"]["mask_threshold"] == 1
    assert len(predictions.scores) == 0, "nothing is above 1"
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 7


def test_masks_are_of_the_images_size_and_failed_images_have_none(orch: Orch, difficult: Path, tmp_path: Path) -> None:
    orch("run", "-m", MODEL, "-i", difficult, "--runtime", "venv", "-o", tmp_path / "out", "-q", expect=1)
    for file, (height, width) in SIZES.items():
        with Image.open(tmp_path / "out" / "masks" / f"{file}.png") as picture:
            assert picture.size == (width, height), file
    assert not any((tmp_path / "out" / "masks" / f"{file}.png").exists() for file in UNREADABLE)


def test_a_thousand_images_killed_and_resumed_are_the_same(orch: Orch, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(1000):
        pixels = np.full((12, 16, 3), number % 256, np.uint8)
        pixels[number % 12, number % 16] = 255 - number // 4
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:04}.bmp")
    common = ("run", "-m", MODEL, "-i", tmp_path / "images", "--runtime", "venv", "--shard-size", 50, "-q")
    orch(*common, "-o", tmp_path / "whole")
    process = orch.start(*common, "-o", tmp_path / "killed", "--set", "sleep=0")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed" / "shards").glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    orch(*common, "-o", tmp_path / "killed", "--set", "sleep=0")
    assert len(content(tmp_path / "killed")) == 1001
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_mask_that_was_deleted_is_predicted_again(orch: Orch, seven: Path, tmp_path: Path) -> None:
    common = ("run", "-m", MODEL, "-i", seven, "--runtime", "venv", "--shard-size", 3, "-o", tmp_path / "out")
    orch(*common)
    whole = content(tmp_path / "out")
    (tmp_path / "out" / "masks" / "y.jpg.png").unlink()
    assert "mask files that are missing or were changed: 1;" in orch(*common).stderr
    assert content(tmp_path / "out") == whole
    (tmp_path / "out" / "summary.json").unlink()
    (tmp_path / "out" / "masks" / "y.png.png").unlink()
    orch(*common)
    assert content(tmp_path / "out") == whole


def test_canvas_masks_are_kept_on_request(orch: Orch, seven: Path, tmp_path: Path) -> None:
    common = ("run", "-m", MODEL, "-i", seven, "--runtime", "venv", "--shard-size", 3, "-q")
    orch(*common, "-o", tmp_path / "without")
    assert not (tmp_path / "without" / "canvas").exists()
    out = tmp_path / "with"
    orch(*common, "--set", "keep_canvas=true", "-o", out)
    predictions = Predictions.load(out / "predictions.npz")
    assert (predictions.meta["native"]["canvas"], predictions.meta["settings"]["keep_canvas"]) == (32, True)
    for file in predictions.files:
        brightness = np.asarray(Image.open(seven / file).convert("RGB")).max(axis=2).astype(np.float32)
        kept = np.load(out / "canvas" / f"{file}.npy", allow_pickle=False)
        assert np.array_equal(kept, brightness[:32, :32] / 255 / 3)
    assert not list((out / "shards").glob("*/*.npy"))
    changed = out / "canvas" / "y.jpg.npy"
    whole = changed.read_bytes()
    changed.unlink()
    assert (
        "mask files that are missing or were changed: 1;"
        in orch(*common[:-1], "--set", "keep_canvas=true", "-o", out).stderr
    )
    assert changed.read_bytes() == whole


def test_the_export_has_upstreams_names_and_none_is_overwritten(orch: Orch, seven: Path, tmp_path: Path) -> None:
    orch("run", "-m", MODEL, "-i", seven, "--runtime", "venv", "-o", tmp_path / "out", "-q")
    target = tmp_path / "theirs"
    orch("export", tmp_path / "out", "-f", "imdlbenco", "-o", target)
    pictures = {path.relative_to(target / "pred").as_posix() for path in (target / "pred").rglob("*.png")}
    assert pictures == {
        "a/x.png", "b/x.png", "y.jpg.png", "y.png.png", "z.png", "deep/er/z.png", "w.png"
    }  # fmt: skip
    labels = json.loads((target / "pred_label_combined.json").read_text())
    assert set(labels) == {"a/x.png", "b/x.png", "y.jpg", "y.png", "z.png", "z.bmp", "w.png"}
    assert (target / "pred" / "w.png").read_bytes() == (tmp_path / "out" / "masks" / "w.png.png").read_bytes()
    again = orch("export", tmp_path / "out", "-f", "imdlbenco", "-o", target, expect=2)
    assert "exists already" in again.stderr
    wrong = orch("export", tmp_path / "out", "-f", "fashionfail", "-o", tmp_path / "x.npz", expect=None)
    assert "Traceback" not in wrong.stderr


def test_a_data_set_is_predicted_and_judged_by_the_masks_it_came_with(orch: Orch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        for part in ("Tp", "Gt"):
            (tmp_path / "set" / name / part).mkdir(parents=True)
        for number in range(3):
            pixels = photograph(40 + number, 30)
            Image.fromarray(pixels).save(tmp_path / "set" / name / "Tp" / f"{number}.png")
            truth = (pixels.max(axis=2) > 127).astype(np.uint8) * 255
            Image.fromarray(truth).save(tmp_path / "set" / name / "Gt" / f"{number}_gt.png")
    sets = tmp_path / "set" / "both.json"
    sets.write_text(json.dumps([["ManiDataset", "one"], ["ManiDataset", "two"]]))
    done = orch("run", "-m", MODEL, "-i", sets, "--runtime", "venv", "-o", tmp_path / "out")
    assert "6 images" in done.stderr
    figures = json.loads(orch("eval", tmp_path / "out", "--json").stdout)
    assert (figures["images"], figures["manipulated"]) == (6, 6)
    assert figures["pixel_fixed"]["f1"] == figures["pixel_auc"] == 1.0
    assert figures == {**json.loads(orch("eval", tmp_path / "out", "--masks", sets, "--json").stdout), "masks": None}
    plain = orch(
        "run", "-m", MODEL, "-i", tmp_path / "set" / "one" / "Gt", "--runtime", "venv", "-o", tmp_path / "plain"
    )
    assert "3 images" in plain.stderr
    assert "no annotations were given" in orch("eval", tmp_path / "plain", expect=2).stderr
