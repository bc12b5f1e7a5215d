"""The stack fformer for real, random weights: against upstream's own code, across stacks, and with odd checkpoints.

Fetches upstream's code, 0.9 GB of wheels for the published stack and 2.6 GB for the modern one, needs 7 GB of disk and
4 GB of memory, and takes half an hour on two cores. $ORCH_TEST_HOME, a cache folder to use instead of a new one, keeps
environments and sources.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.fformer import MAKE_WEIGHTS, run
from orchestrator import cli
from orchestrator.catalog.loader import StackEntry, load_catalog
from orchestrator.catalog.upstream_code import ensure_sources
from orchestrator.paths import weights_folder, worker_cache_folder
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.venv import VenvRuntime
from orchestrator.workflows.demo.photographs import fetch_photographs

pytestmark = pytest.mark.heavy

MODELS = ("fformer-r50-fpn", "fformer-swin")
VARIANTS = ("cpu", "cpu-modern")
CASE = Path(__file__).parents[2] / "bench" / "fformer_case.py"
AS_TRAINED = """
import sys, torch
state = torch.load(sys.argv[1])["state_dict"]
moments = {n: {"step": 9, "exp_avg": torch.zeros_like(v), "exp_avg_sq": torch.zeros_like(v)}
           for n, v in enumerate(state.values()) if v.is_floating_point()}
# As on the GPU it was trained on: every tensor's place is written down, and looked for when it is read.
torch.serialization.location_tag = lambda storage: "cuda:0"
optimizer = {"state": moments, "param_groups": [{"lr": 1e-4}]}
torch.save({"meta": {"epoch": 36}, "state_dict": state, "optimizer": optimizer}, sys.argv[2])
"""
ENLARGED = """
import sys, types, torch
from masks import KeptInstances, encode, enlarge, select
from orch_runner.predictor import Model
from upstream import register
register(sys.argv[1])
from projects.FashionFormer import KernelUpdateHead
import numpy as np
from pycocotools import mask as coco_mask
torch.manual_seed(0)
wrong = count = 0
for height, width in ((1, 1), (1, 700), (700, 1), (3, 5), (427, 640), (640, 427), (800, 1333), (1501, 997)):
    scale = min(1333 / max(height, width), 800 / min(height, width))
    inside = int(height * scale + 0.5), int(width * scale + 0.5)
    padded = tuple(-(-side // 32) * 32 for side in inside)
    for amount in (0, 1, 7, 8, 9, 20):
        logits = torch.randn(amount, padded[0] // 4, padded[1] // 4)
        if amount > 3:
            logits[0], logits[1], logits[2] = -9, 9, 0  # nothing, everything, and exactly the middle
        meta = {"img_shape": (*inside, 3), "batch_input_shape": padded, "ori_shape": (height, width, 3)}
        if amount:
            theirs = (KernelUpdateHead.rescale_masks(None, logits, meta) > 0.5).numpy()
        else:
            theirs = np.zeros((0, height, width), bool)
        none = np.zeros(amount)
        full = enlarge(KeptInstances(logits, none, none, none, 0.5, padded, inside, (height, width)))
        encoded, boxes = encode(full)
        for n, mask in enumerate(theirs):
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
            wrong += expected != encoded[n] or boxes[n].tolist() != box
            count += 1
print(count, wrong)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackEntry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCH_HOME", os.environ.get("ORCH_TEST_HOME") or str(tmp_path_factory.mktemp("orch-home")))
        yield load_catalog([]).stack("fformer")


@pytest.fixture(scope="module")
def sources(stack: StackEntry) -> Path:
    return ensure_sources("fformer", stack.spec.sources, print)["fashionformer"]


@pytest.fixture(scope="module")
def python(stack: StackEntry) -> Path:
    """That of the published stack."""
    return Path(VenvRuntime().prepare(stack, "cpu", BuildOptions(), print).location) / "bin" / "python"


@pytest.fixture(scope="module")
def weights(
    stack: StackEntry, python: Path, sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Random weights by model."""
    folder = tmp_path_factory.mktemp("weights")
    for name in MODELS:
        run(python, "-c", MAKE_WEIGHTS, name, sources, stack.spec.models[name].config, folder)
    return {name: folder / stack.spec.models[name].weights["pth"].file for name in MODELS}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", MODELS)
def test_the_selftest_passes(stack: StackEntry, model: str, variant: str) -> None:
    assert cli.main(["selftest", model, "--variant", variant, "--runtime", "venv"]) == 0


@pytest.mark.parametrize("floor", ["0.05", "0"])
@pytest.mark.parametrize("model", MODELS)
def test_the_same_bytes_as_upstreams_own_code(
    stack: StackEntry, python: Path, sources: Path, weights: dict[str, Path], photographs: Path, model: str, floor: str
) -> None:
    config = stack.spec.models[model].config
    for name in ("coffee.png", "rocket.jpg"):
        what = (sources, config, weights[model], photographs / name, 0)
        ours, upstream = (json.loads(run(python, CASE, *what, case, floor, 1, 2)) for case in ("ours", "upstream"))
        assert ours["instances"] == upstream["instances"] > 0
        assert ours["digest"] == upstream["digest"]


def test_enlarged_masks_equal_upstreams_on_odd_shapes(python: Path, sources: Path) -> None:
    assert run(python, "-c", ENLARGED, sources).split() == ["360", "0"]


@pytest.mark.parametrize("model", MODELS)
def test_the_stacks_are_equivalent(
    stack: StackEntry, model: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["equivalence", model, "--variants", ",".join(VARIANTS), "--random-weights", "--json"]
    command += ["--runtime", "venv"]
    assert cli.main([*command, "--images", str(photographs), "--out", str(tmp_path / "runs")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equivalent"] is True
    assert found["instances"] > 20


def predict(stack: StackEntry, model: str, file: Path, images: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`orch run` on one photograph with this weights file, which is as large as the published one may be."""
    assert cli.main(["weights", "add", "--force", model, str(file)]) == 0
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "run",
        "-m",
        model,
        "-i",
        str(images / "rocket.jpg"),
        "-o",
        str(out),
    ]
    command += ["--variant", "cpu", "--runtime", "venv"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_checkpoints_that_are_not_what_they_should_be(
    stack: StackEntry, python: Path, weights: dict[str, Path], photographs: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "trained.pth"
    run(python, "-c", AS_TRAINED, weights["fformer-r50-fpn"], trained)
    assert trained.stat().st_size > 2.5 * weights["fformer-r50-fpn"].stat().st_size

    wrong = predict(stack, "fformer-swin", trained, photographs, tmp_path / "wrong")
    assert wrong.returncode == 4, wrong.stderr
    assert "these are weights of fformer-r50-fpn, not of fformer-swin" in wrong.stderr

    content = weights["fformer-r50-fpn"].read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(len(content) * 0.95)])
    cut = predict(stack, "fformer-r50-fpn", tmp_path / "cut.pth", photographs, tmp_path / "cut")
    assert cut.returncode == 4, cut.stderr
    assert "it is truncated or damaged" in cut.stderr

    for number in range(2):
        right = predict(stack, "fformer-r50-fpn", trained, photographs, tmp_path / f"right-{number}")
        assert right.returncode == 0, right.stderr
    kept = list(worker_cache_folder("fformer", "cpu").glob("weights-*.pth"))
    digest = json.loads((weights_folder("fformer", "fformer-r50-fpn") / "fashionformer_r50_3x.pth.json").read_text())
    assert [path.name for path in kept if path.name == f"weights-{digest['sha256'][:16]}.pth"]
    results: list[Any] = [(tmp_path / f"right-{number}" / "predictions.npz").read_bytes() for number in range(2)]
    assert results[0] == results[1]
