"""The self-test: three photographs through a model whose weights may be random ones, and what it refuses to pass."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.dispatch import Outcome
from orchestrator.errors import MachineError, PredictionsError, RunError
from orchestrator.paths import RunPaths, home
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.registry import RUNTIMES
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows import selftest
from orchestrator.workflows.selftest import PHOTOGRAPHS, run_selftest, selftest_photographs
from tests.unit.conftest import MakePhoto
from tests.unit.plain_runtime import PlainRuntime
from tests.unit.predictions.predictions_samples import COUNTS, FILES, Arrays, sample_arrays, save
from tests.unit.stack_samples import edited

FAULTY = Path(__file__).parents[2] / "stacks" / "faulty"
OPTIONS = RunOptions(images=[], runtime="plain")


class Noted(SilentDisplay):
    """Keeps the lines it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: MakePhoto) -> None:
    """Workers are processes of this Python; the photographs are drawn."""

    def draw(folder: Path) -> Path:
        for name in PHOTOGRAPHS:
            photo(folder / name, (300, 300))
        return folder

    monkeypatch.setattr(PlainRuntime, "folder", tmp_path)
    monkeypatch.setitem(RUNTIMES, "plain", PlainRuntime)
    monkeypatch.setattr(selftest, "fetch_photographs", draw)


def entry_of(name: str, stacks: Path = FAULTY.parent) -> ModelEntry:
    return load_catalog([stacks]).model(name)


def test_a_model_without_weights_is_run_as_it_is_in_a_folder_that_is_emptied(tmp_path: Path) -> None:
    folder = home() / "selftest" / "faulty-bright-plain-any"
    (folder / "left").mkdir(parents=True)
    result = run_selftest(entry_of("faulty-bright"), OPTIONS, None, SilentDisplay())
    assert result.as_json()["instances"] == dict.fromkeys(PHOTOGRAPHS, 1)
    assert (result.random_weights, result.outcome.paths.root) == (False, folder / "run")
    assert not (folder / "left").exists()
    assert not (folder / "weights").exists()


def test_weights_that_nobody_may_fetch_are_random_ones_and_made_once(tmp_path: Path) -> None:
    display = Noted()
    (tmp_path / "mine").mkdir()
    for _ in range(2):
        result = run_selftest(entry_of("faulty-by-hand"), OPTIONS, tmp_path / "mine", display)
        assert (result.random_weights, dict(result.instances)) == (True, dict.fromkeys(PHOTOGRAPHS, 1))
        assert result.as_json()["passed"] is True
    (weights,) = (tmp_path / "mine" / "weights").rglob("level.json")
    assert 100 <= int(weights.read_text()) < 150
    assert display.lines.count("faulty-by-hand: making random weights of the right architecture") == 1


def test_a_stack_whose_random_weights_fail_says_why(tmp_path: Path) -> None:
    stack = tmp_path / "stacks" / "faulty"
    shutil.copytree(FAULTY, stack)
    program = (stack / "predictor.py").read_text()
    (stack / "predictor.py").write_text(edited(program, "        level = int(np", "        raise OSError(level := np"))
    with pytest.raises(RunError, match="cannot make random weights") as caught:
        run_selftest(entry_of("faulty-by-hand", stack.parent), OPTIONS, tmp_path / "mine", SilentDisplay())
    assert str(caught.value.why).startswith("OSError: ")
    assert not (tmp_path / "mine" / "weights").exists()


def test_without_photographs_scenes_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> Path:
        raise MachineError("cannot download")

    monkeypatch.setattr(selftest, "fetch_photographs", fail)
    folder = selftest_photographs(tmp_path / "photographs")
    assert sorted(path.name for path in folder.iterdir()) == [f"scene-{number:05d}.png" for number in range(3)]
    assert selftest_photographs(folder) == folder


def check(folder: Path, arrays: Arrays, failures: tuple[str, ...] = ()) -> dict[str, int]:
    """The instances in each image of a run with these predictions."""
    paths = RunPaths(folder / "run")
    paths.root.mkdir()
    save(arrays, paths.predictions)
    listed = [{"image_file": file, "error": "cut off"} for file in failures]
    summary: dict[str, Any] = {"images": len(FILES), "failed": len(failures), "failures": listed}
    return dict(selftest._check(Outcome(paths, summary)))


def test_instances_are_counted_by_photograph(tmp_path: Path) -> None:
    assert check(tmp_path, sample_arrays()) == dict(zip(FILES, COUNTS, strict=True))


def test_a_failed_photograph_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="1 of 4 photographs failed") as caught:
        check(tmp_path, sample_arrays(), (FILES[2],))
    assert caught.value.why == f"{FILES[2]}: cut off"


def test_wrong_predictions_do_not_pass(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["scores"][1] = 2
    with pytest.raises(PredictionsError, match="are invalid") as caught:
        check(tmp_path, arrays)
    assert "is outside [0, 1]" in str(caught.value.why)


def test_nothing_found_does_not_pass(tmp_path: Path) -> None:
    arrays = sample_arrays()
    rows = ("boxes", "classes", "scores", "masks", "attributes")
    arrays |= {name: arrays[name][:0] for name in rows} | {"mask_offsets": np.zeros(1, np.int64)}
    with pytest.raises(PredictionsError, match="nothing was detected"):
        check(tmp_path, arrays | {"offsets": np.zeros(len(FILES) + 1, np.int64)})
