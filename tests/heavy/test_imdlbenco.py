"""The stack imdlbenco for real, in its own environment on the CPU: PyTorch, upstream's package, random checkpoints.

Fetches 2.5 GB of wheels, needs 6 GB of disk, 4 GB of memory and about an hour on two cores. $ORCH_TEST_HOME, a cache
folder to use instead of a new one, keeps the environment.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.imdlbenco import environment_python, run_case
from orchestrator import Predictions
from orchestrator.catalog.loader import load_catalog
from orchestrator.workflows.demo.photographs import fetch_photographs
from tests.conformance.conftest import Orch

pytestmark = pytest.mark.heavy

MODELS = tuple(load_catalog([]).stacks["imdlbenco"].spec.models)
COMPARED = ("mvss-net", "pscc-net", "object-former")
SMALL = "pscc-net"
SIZES = (
    (600, 400),
    (427, 640),
    (320, 320),
    (1100, 730),
    (240, 500),
    (1600, 1200),
    (97, 211),
    (512, 512),
    (33, 17),
    (800, 300),
)
COMMON = ("--runtime", "venv", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("ORCH_TEST_HOME") or tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module", autouse=True)
def _environment(home: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCH_HOME", str(home))
        yield


@pytest.fixture(scope="module")
def orch(home: Path) -> Orch:
    return Orch(home, [])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of various sizes, two of the same base name in different folders."""
    folder = tmp_path_factory.mktemp("photographs")
    sources = sorted(fetch_photographs(tmp_path_factory.mktemp("fetched")).iterdir())
    (folder / "b").mkdir()
    for number, size in enumerate(SIZES):
        with Image.open(sources[number % len(sources)]) as source:
            source.convert("RGB").resize(size).save(folder / ("b/0.png" if number == 9 else f"{number}.png"))
    return folder


def checkpoint_of(orch: Orch, model: str, home: Path) -> Path:
    """A random checkpoint as the self-test makes it, added as if it were the published one; kept in `home`."""
    path = home / "selftest-kept" / model / "weights" / f"{model}.pth"
    if not path.exists():
        orch("selftest", model, *COMMON, "--out", home / "selftest-kept" / model)
    orch("weights", "add", "--force", model, path)
    return path


@pytest.mark.parametrize("model", MODELS)
def test_every_model_tests_itself(orch: Orch, model: str, tmp_path: Path) -> None:
    done = orch("selftest", model, *COMMON, "--out", tmp_path / "kept", "--json")
    result = json.loads(done.stdout)
    assert (result["passed"], result["random_weights"], len(result["instances"])) == (True, True, 3)
    for path in (tmp_path / "kept" / "photographs").iterdir():
        with Image.open(path) as image, Image.open(tmp_path / "kept" / "run" / "masks" / f"{path.name}.png") as mask:
            assert (mask.mode, mask.size) == ("L", image.size)
    shutil.rmtree(tmp_path / "kept" / "weights")


@pytest.mark.parametrize("model", COMPARED)
def test_masks_equal_those_of_upstreams_script(
    orch: Orch, home: Path, photographs: Path, model: str, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(orch, model, home)
    orch("run", "-m", model, "-i", photographs, *COMMON, "-o", tmp_path / "run")
    files = Predictions.load(tmp_path / "run" / "predictions.npz").files
    # Upstream would write both images called 0.png to one mask: it is shown them under other names, in our order.
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(files):
        shutil.copyfile(photographs / file, flat / f"{number}.png")
    listing = tmp_path / "listing.json"
    listing.write_text(json.dumps([[str(flat / f"{number}.png"), "Negative"] for number in range(len(files))]))
    run_case(environment_python(), listing, tmp_path / "theirs", "upstream", model, checkpoint)
    both_sides = 0
    for number, file in enumerate(files):
        with Image.open(tmp_path / "run" / "masks" / f"{file}.png") as ours, Image.open(photographs / file) as image:
            assert ours.size == image.size
            mine = np.asarray(ours).astype(int)
        with Image.open(tmp_path / "theirs" / "pred" / f"{number}.png") as picture:
            theirs = np.asarray(picture).astype(int)
        assert np.abs(mine - theirs).max() <= 1, file
        both_sides += mine.min() < 128 <= mine.max()
    assert both_sides >= 5, "the masks say the same everywhere: too little to compare"
    check_scores(tmp_path / "run", tmp_path / "theirs" / "pred_label_combined.json", files)


def check_scores(ours: Path, theirs: Path, files: list[str]) -> None:
    """Image scores are upstream's labels, where the model has any."""
    scores = Predictions.load(ours / "predictions.npz").image_scores
    if not theirs.exists():
        assert scores is None or np.isnan(scores).all()
        return
    labels = json.loads(theirs.read_text())
    assert scores is not None
    assert np.allclose(scores, [labels[f"{number}.png"] for number in range(len(files))], atol=1e-5)


def content(run: Path) -> dict[str, bytes]:
    """A run's masks and predictions, byte by byte."""
    files = list((run / "masks").rglob("*.png"))
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in [*files, run / "predictions.npz"]}


@pytest.mark.parametrize("settings", [(), ("--set", "batch_norm=train")])
def test_seven_images_at_batch_two_are_the_same_bytes_however_many_workers(
    orch: Orch, home: Path, photographs: Path, settings: tuple[str, ...], tmp_path: Path
) -> None:
    checkpoint_of(orch, SMALL, home)
    shutil.copytree(photographs, tmp_path / "seven")
    for number in (3, 5, 7):
        (tmp_path / "seven" / f"{number}.png").unlink()
    runs = {}
    for workers in (1, 2, 4):
        out = tmp_path / f"run-{workers}"
        orch("run", "-m", SMALL, "-i", tmp_path / "seven", *COMMON, *settings, "--batch-size", 2, "--shard-size", 2,
             "--workers", workers, "-o", out)  # fmt: skip
        runs[workers] = content(out)
    assert len(runs[1]) == 8
    assert {"masks/0.png.png", "masks/b/0.png.png"} <= set(runs[1])
    assert runs[1] == runs[2] == runs[4]


def test_a_checkpoint_of_another_model_is_refused_and_its_keys_named(
    orch: Orch, home: Path, photographs: Path, tmp_path: Path
) -> None:
    other = checkpoint_of(orch, SMALL, home)
    orch("weights", "add", "--force", "mantra-net", other)
    failed = orch("run", "-m", "mantra-net", "-i", photographs, *COMMON, "-o", tmp_path / "run", expect=None)
    assert failed.returncode != 0
    assert "the checkpoint is not one of mantra-net" in failed.stderr
    assert "missing: IMTFE." in failed.stderr
    assert "unexpected: weights, FENet" in failed.stderr
