"""`orch selftest`: real weights where orch has them, random ones made in the stack's own environment where not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.conftest import RUNTIMES, Orch


@pytest.mark.parametrize("name", ["garments-tiny", "ppocr-det", "faulty-bright", "rectangles", "salience"])
def test_models_whose_weights_are_here_test_themselves_with_them(orch: Orch, name: str) -> None:
    done = orch("selftest", name, "--runtime", "venv")
    assert done.stderr.splitlines()[-1] == "passed"


@pytest.mark.parametrize("name", ["facere", pytest.param("facere+", marks=pytest.mark.nightly)])
def test_facere_tests_itself_with_random_weights(orch: Orch, name: str) -> None:
    done = orch("selftest", name, "--runtime", "venv", "--device", "cpu", "--json")
    result = json.loads(done.stdout)
    assert (result["passed"], result["random_weights"]) == (True, True)
    assert sum(result["instances"].values()) >= 10


@pytest.mark.parametrize("where", RUNTIMES)
def test_weights_by_hand_are_replaced_by_random_ones(orch: Orch, where: str, tmp_path: Path) -> None:
    missing = orch("run", "-m", "faulty-by-hand", "-i", tmp_path, expect=2)
    assert "no images" in missing.stderr
    done = orch("selftest", "faulty-by-hand", "--runtime", where, "--out", tmp_path / "kept", "--json")
    result = json.loads(done.stdout)
    assert (result["passed"], result["random_weights"]) == (True, True)
    assert 100 <= int((tmp_path / "kept" / "weights" / "level.json").read_text()) < 150
    assert len(result["instances"]) == 3


def test_a_model_that_cannot_be_loaded_does_not_pass(orch: Orch) -> None:
    failed = orch("selftest", "faulty-bright", "--runtime", "venv", "--set", "fail_load=true", expect=5)
    assert "asked to fail" in failed.stderr
    assert "log:" in failed.stderr
