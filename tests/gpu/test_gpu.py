"""Stacks on a real GPU with random weights: probed, self-tested, run, and how many images a second that gave.

Fetches and builds several GB a stack; $ORCH_TEST_HOME, a cache folder to use instead of a new one, keeps them.
Skipped where there is no GPU, except with ORCH_REQUIRE_GPU=1.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orchestrator import Predictions
from orchestrator.hardware import detect_machine
from orchestrator.workflows.demo.photographs import fetch_photographs
from tests.conformance.conftest import RUNTIMES, Orch

pytestmark = pytest.mark.gpu
MODELS = ("pscc-net", "fformer-r50-fpn", "facere", "amrcnn-r50-fpn")
COPIES = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("ORCH_TEST_HOME") or tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def orch(home: Path) -> Orch:
    """With the base images that the Dockerfiles name: the stand-ins for CI have one Python."""
    made = Orch(home, [])
    made.environment.pop("ORCH_BASE_IMAGE", None)
    return made


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs, each several times: enough to keep a GPU busy for a while."""
    folder = tmp_path_factory.mktemp("photographs")
    for source in sorted(fetch_photographs(tmp_path_factory.mktemp("fetched")).iterdir()):
        for copy in range(COPIES):
            shutil.copyfile(source, folder / f"{copy:02}-{source.name}")
    return folder


def test_every_gpu_is_named_with_what_choosing_a_variant_needs() -> None:
    for gpu in detect_machine().usable_gpus():
        print(gpu)
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert gpu.memory > 0
        assert float(gpu.capability) >= 3.5
        assert int(gpu.driver.partition(".")[0]) >= 400


@pytest.mark.parametrize("where", RUNTIMES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_on_the_gpu(
    orch: Orch, home: Path, photographs: Path, tmp_path: Path, name: str, where: str
) -> None:
    on_gpu = ("--runtime", where, "--device", "cuda")
    kept = home / "selftest-gpu" / f"{name}-{where}"
    tested = json.loads(orch("selftest", name, *on_gpu, "--out", kept, "--json").stdout)
    assert (tested["passed"], tested["run"]["device"]) == (True, "cuda")
    for path in sorted((kept / "weights").iterdir()):
        orch("weights", "add", "--force", name, path)
    out = tmp_path / "run"
    summary = json.loads(orch("run", "-m", name, "-i", photographs, *on_gpu, "-o", out, "--json").stdout)
    assert (summary["failed"], summary["device"]) == (0, "cuda")
    assert summary["images"] == len(list(photographs.iterdir()))
    assert Predictions.load(out / "predictions.npz").meta["device"] == "cuda"
    rate = summary["images"] / summary["seconds"]["dispatch"]
    gpu = detect_machine().gpus[0]
    print(f"{name}, {where}, {gpu.name}: {rate:.2f} images/s with the worker's start, {summary['versions']}")


def test_binaries_without_code_for_the_gpu_are_refused_before_anything_is_fetched(orch: Orch) -> None:
    if float(detect_machine().gpus[0].capability) < 8:
        pytest.skip("cu102 has code for this GPU")
    refused = orch("build", "fformer", "--variant", "cu102", "--device", "cuda", expect=4)
    assert "compute capability" in refused.stderr
