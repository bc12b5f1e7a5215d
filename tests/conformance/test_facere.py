"""The stack facere with random weights: its checks in its own environment, then the whole way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import Predictions
from tests.conformance.conftest import Orch
from tests.conformance.pictures import SIZES, UNREADABLE

ROOT = Path(__file__).parent.parent.parent
CHECK = Path(__file__).parent / "facere" / "check.py"
pytestmark = pytest.mark.nightly  # minutes of passes on a CPU; the self-test of facere is in CI
NAMES = {"facere": set(range(46)), "facere+": set(range(27)) - {2, 12, 16, 19, 20}}


@pytest.fixture(scope="module", params=NAMES)
def checked(
    request: pytest.FixtureRequest, orch: Orch, orch_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """A model's name, and what its checks found."""
    orch("build", "facere", "--runtime", "venv", "--variant", "cpu")
    # The newest one: a kept cache has others.
    pythons = sorted(orch_home.glob("envs/facere-cpu-*/bin/python"), key=lambda path: path.lstat().st_mtime)
    folder = tmp_path_factory.mktemp("facere")
    paths = [ROOT / "images" / "runner", ROOT / "images" / "facere", folder]
    command = [str(one) for one in (pythons[-1], CHECK, *paths, request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return request.param, report


def test_pasting_equals_a_naive_reference_also_where_boxes_leave_the_image(checked: tuple[str, Any]) -> None:
    assert checked[1]["paste"] == {"masks": 8, "wrong": 0}


def test_graphs_of_another_shape_are_refused_with_the_reason(checked: tuple[str, Any]) -> None:
    assert checked[1]["refusals"] == {
        "no_loop": "its masks are made by Identity, not Unsqueeze",
        "nearest": "its loop resizes with mode 'nearest', not 'linear'",
        "two": "its loop has 2 Resize, not one",
        "three_outputs": "it has 3 outputs, not boxes, labels, scores, masks",
    }


def test_a_loop_that_pastes_otherwise_is_left_in_with_one_line(checked: tuple[str, Any]) -> None:
    text = checked[1]["other paste"]
    assert text.startswith("True False other.onnx: masks are pasted by the graph itself, which is slow: its loop")
    assert text.count("\n") == 1


def test_cuda_where_there_is_none_is_an_error(checked: tuple[str, Any]) -> None:
    assert checked[1]["cuda"].startswith("Fatal: ONNX Runtime uses CPUExecutionProvider instead")


def test_both_ways_of_pasting_give_the_same_bytes(checked: tuple[str, Any]) -> None:
    found = checked[1]["equality"]
    assert all(one["same"] and one["masks"] for one in found), found
    assert sum(one["instances"] for one in found) >= 10, found
    assert len(checked[1]["cached"]) == 1


def test_an_image_with_nothing_in_it(checked: tuple[str, Any]) -> None:
    assert checked[1]["nothing found"] == [0, 0, 0, 0]


def test_every_image_is_accounted_for(orch: Orch, checked: tuple[str, Any], difficult: Path, tmp_path: Path) -> None:
    name, report = checked
    orch("weights", "add", "--force", name, report["weights"])
    orch("run", "-m", name, "-i", difficult, "--runtime", "venv", "-o", tmp_path / "out", expect=1)
    predictions = Predictions.load(tmp_path / "out" / "predictions.npz")
    assert predictions.validate() == []
    status = dict(zip(predictions.files, predictions.status.tolist(), strict=True))
    assert status == {file: int(file in UNREADABLE) for file in [*SIZES, *UNREADABLE]}
    assert len(predictions["large.jpg"]["scores"]) > 0
    assert set(np.unique(predictions.classes).tolist()) <= NAMES[name]
