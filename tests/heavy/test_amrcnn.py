"""The stack amrcnn for real, in its own environment on the CPU: TensorFlow, upstream's code, random weights.

Fetches 300 MB of wheels and upstream's code, needs 2 GB of disk and of memory and about half an hour. $ORCH_TEST_HOME,
a cache folder to use instead of a new one, keeps the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.amrcnn import ROOT as REPOSITORY
from bench.amrcnn import RUNNER, STACK, environment_python, run, sources
from orchestrator import Predictions
from tests.conformance.conftest import Orch
from tests.conformance.pictures import SIZES, UNREADABLE, photograph, write_difficult_folder

pytestmark = pytest.mark.heavy

R50 = "amrcnn-r50-fpn"
MODELS = (R50, "amrcnn-spine")
FOLDERS = {R50: "fashionpedia-r50-fpn", "amrcnn-spine": "fashionpedia-spinenet-143"}
START = """
import sys
sys.path[:0] = sys.argv[1:3]
arguments = sys.argv[3:]
"""


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
def python(_environment: object) -> Path:
    """The environment's interpreter."""
    return environment_python()


class Weights(dict[str, Path]):
    """Random weights by the model, as `orch selftest` makes them, added to the cache: made when first asked for."""

    def __init__(self, orch: Orch, folder: Path) -> None:
        super().__init__()
        self._orch, self._folder = orch, folder

    def __missing__(self, model: str) -> Path:
        kept = self._folder / model
        done = self._orch("selftest", model, "--runtime", "venv", "--device", "cpu", "--out", kept, "--json")
        result = json.loads(done.stdout)
        assert (result["passed"], result["random_weights"]) == (True, True)
        assert min(result["instances"].values()) > 0
        self[model] = kept / "weights" / FOLDERS[model]
        self._orch("weights", "add", "--force", model, self[model])
        return self[model]


@pytest.fixture(scope="module")
def weights(orch: Orch, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The random weights; those of R50 are there."""
    found = Weights(orch, tmp_path_factory.mktemp("selftest"))
    assert found[R50].is_dir()
    return found


def script(python: Path, code: str, *arguments: object) -> str:
    return run(python, "-c", START + code, RUNNER, STACK, *arguments).strip()


def predict(orch: Orch, out: Path, images: Path, *arguments: object, expect: int = 0) -> Predictions:
    orch("run", "-m", R50, "-i", images, "--runtime", "venv", "--device", "cpu", "-o", out, *arguments, expect=expect)
    return Predictions.load(out / "predictions.npz")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey, with alpha, portrait and landscape, one larger and one much longer than the network's square."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    folder.mkdir()
    for name, (width, height), mode in (
        ("grey.png", (400, 300), "L"),
        ("alpha.png", (500, 333), "RGBA"),
        ("portrait.jpg", (333, 720), "RGB"),
        ("large.jpg", (2000, 1500), "RGB"),
        ("long.png", (1500, 200), "RGB"),
    ):
        Image.fromarray(photograph(width, height)).convert(mode).save(folder / name)
    with tarfile.open(f"{folder}.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_what_is_found_is_what_upstreams_script_finds(
    python: Path, weights: Weights, photographs: Path, tmp_path: Path, model: str
) -> None:
    """Boxes, classes, scores, attributes and the masks' bytes, of an archive: upstream decodes those with Pillow."""
    source, inference = sources()
    case = REPOSITORY / "bench" / "amrcnn_case.py"
    where = [RUNNER, STACK, source, inference, weights[model], tmp_path / "cache", photographs]
    theirs, ours = (json.loads(run(python, case, one, model, *where))["found"] for one in ("upstream", "ours"))
    assert ours == theirs
    assert sum(count for _, count in ours.values()) > 20


PASTE = """
import numpy as np
from pathlib import Path
source = Path(arguments[0]) / "models" / "official" / "detection"
sys.path.insert(0, str(source))
from orch_runner.rle import encode_masks
from paste import paste
from pycocotools import mask as coco_mask
from utils import box_utils, mask_utils
random = np.random.default_rng(3)
different = count = 0
for number in range(60):
    height, width = random.integers(1, 300, 2)
    corners = random.uniform(-40, 340, (40, 2, 2))
    if number % 3 == 0:
        corners = corners.round()
    if number % 5 == 0:
        corners[:20, 1] = corners[:20, 0] + random.uniform(0, 3, (20, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    coarse = random.random((40, 7, 7))
    masks = np.kron(coarse, np.ones((1, 4, 4))).astype(np.float32)
    masks[::4] = random.random((10, 28, 28), np.float32)
    masks[3::8], masks[7::8] = 0, 1
    whole = mask_utils.paste_instance_masks(masks, box_utils.yxyx_to_xywh(boxes), height, width)
    theirs = [coco_mask.encode(np.asfortranarray(one))["counts"] for one in whole]
    ours = encode_masks(paste(masks, boxes, height, width), np.arange(40), int(height), int(width))
    different += sum(one != other for one, other in zip(theirs, ours))
    count += len(ours)
print(count, different)
"""


def test_masks_are_pasted_as_upstream_does(python: Path) -> None:
    """Boxes that leave the image, of no size, of whole pixels; masks of every kind: the same bytes."""
    assert script(python, PASTE, sources()[0]) == "2400 0"


def test_every_kind_of_image(orch: Orch, weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / "difficult"
    write_difficult_folder(folder)
    Image.fromarray(np.ones((9, 9), np.float32)).save(folder / "float.tif")
    predictions = predict(orch, tmp_path / "run", folder, expect=1)
    failures = json.loads((tmp_path / "run" / "summary.json").read_text())["failures"]
    assert {one["image_file"] for one in failures} == {*UNREADABLE, "float.tif"}
    assert predictions.validate() == []
    assert {file: tuple(predictions[file]["image_size"]) for file in SIZES} == SIZES
    assert len(predictions["photo.jpg"]["scores"])
    assert predictions["photo.jpg"]["attributes"].shape[1] == 294


def test_archives_give_what_folders_give(orch: Orch, weights: Weights, photographs: Path, tmp_path: Path) -> None:
    with (
        tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar,
        zipfile.ZipFile(tmp_path / "images.zip", "w") as zipped,
    ):
        for path in sorted(photographs.iterdir()):
            tar.add(path, path.name)
            zipped.write(path, path.name)
    plain = predict(orch, tmp_path / "plain", photographs, "--threads", "1")
    for name, more in (("images.tar.gz", ["--workers", "2"]), ("images.zip", ["--threads", "3"])):
        found = predict(orch, tmp_path / name.replace(".", "-"), tmp_path / name, *more)
        for file in plain.files:
            for key in ("boxes", "classes", "scores", "attributes"):
                assert np.array_equal(plain[file][key], found[file][key]), (name, file, key)
            assert plain[file]["masks"] == found[file]["masks"]


def test_settings_reach_the_network_and_the_predictions(
    orch: Orch, weights: Weights, photographs: Path, tmp_path: Path
) -> None:
    few = ["--set", "postprocess.max_total_size=3", "--set", "postprocess.score_threshold=0.01"]
    loop = predict(orch, tmp_path / "loop", photographs, *few, "--set", "nms=upstream")
    swapped = predict(orch, tmp_path / "op", photographs, *few)
    assert [len(loop[file]["scores"]) for file in loop.files] == [3] * 5
    for name in ("boxes", "classes", "scores", "attributes", "masks"):
        assert np.array_equal(getattr(loop, name), getattr(swapped, name)), name
    assert loop.meta["settings"]["nms"] == "upstream"
    assert loop.meta["settings"]["postprocess.score_threshold"] == 0.01
    nothing = predict(orch, tmp_path / "nothing", photographs, "--set", "postprocess.score_threshold=1")
    assert nothing.attributes is not None
    assert (nothing.boxes.shape, nothing.attributes.shape) == ((0, 4), (0, 294))
    assert nothing.validate() == []
    assert (
        "must be a multiple of 128"
        in orch("run", "-m", R50, "-i", photographs, "--set", "image_size=600", expect=2).stderr
    )


def test_checkpoints_that_cannot_be_used(
    orch: Orch, home: Path, weights: Weights, photographs: Path, tmp_path: Path
) -> None:
    def failure() -> str:
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        return orch(
            "run", "-m", R50, "-i", photographs, "--runtime", "venv", "--device", "cpu", "-o", out, expect=None
        ).stderr

    try:
        orch("weights", "add", "--force", R50, weights["amrcnn-spine"])
        assert "is not one of amrcnn-r50-fpn" in failure()
        (tmp_path / "empty").mkdir()
        orch("weights", "add", "--force", R50, tmp_path / "empty")
        assert "no checkpoint in" in failure()
        cut = tmp_path / "cut"
        subprocess.run(["cp", "-r", weights[R50], cut], check=True)
        (data,) = cut.glob("*.data-*")
        os.truncate(data, data.stat().st_size // 2)
        orch("weights", "add", "--force", R50, cut)
        assert "cannot be read" in failure()
    finally:
        orch("weights", "add", "--force", R50, weights[R50])


KEPT = """
import os
from metagraph import cached_name, open_graph
source, cache = arguments
folder = os.path.join(cache, "amrcnn")
name = cached_name("amrcnn-r50-fpn", source, {})
open_graph("amrcnn-r50-fpn", source, {}, cache)
size = os.path.getsize(os.path.join(folder, name))
os.truncate(os.path.join(folder, name), size // 2)
open_graph("amrcnn-r50-fpn", source, {}, cache)
# Not the same bytes: seeds of initial values, which are never used, are in it.
assert os.path.getsize(os.path.join(folder, name)) > 0.9 * size
assert os.listdir(folder) == [name]
assert name != cached_name("amrcnn-r50-fpn", source, {"image_size": 1024}) != cached_name("amrcnn-spine", source, {})
print("kept")
"""


def test_a_damaged_graph_is_built_anew(python: Path, tmp_path: Path) -> None:
    assert script(python, KEPT, sources()[0], tmp_path) == "kept"


DEVICE = """
from predictor import Predictor
from orch_runner.contract import Fatal
try:
    Predictor().probe()
except Fatal as error:
    print(error.category, error)
"""


def test_without_a_gpu_cuda_is_an_error(python: Path) -> None:
    assert script(python, DEVICE).startswith("device no usable GPU")
