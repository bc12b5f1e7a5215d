"""`orch test-stack`: each requirement is seen to fail for predictions that break it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import RunError
from orchestrator.plan import RunOptions
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows import conformance
from orchestrator.workflows.conformance import Check, check_models
from orchestrator.workflows.difficult_images import SIZES, UNREADABLE
from tests.unit.predictions.predictions_samples import sample_arrays, save
from tests.unit.stack_samples import model_entry


class Faked:
    """Predictions of the difficult folder as they should be, with changes."""

    def __init__(self, **changes: Any) -> None:
        self.sizes = {**SIZES, **dict.fromkeys(UNREADABLE, (0, 0))}
        self.files = [*SIZES, *UNREADABLE]
        self.has_masks, self.boxes, self.problems = True, np.array([[1.0, 1, 4, 4]]), list[str]()
        self.arrays = {"scores": np.zeros(1)}
        self.pixels = np.pad(np.ones((3, 3), bool), ((1, 2), (1, 2)))
        self.reasons = dict.fromkeys(UNREADABLE, "cannot be read")
        vars(self).update(changes)

    @property
    def error(self) -> Any:
        return np.array([self.reasons.get(file, "") for file in self.files])

    def __getitem__(self, file: str) -> dict[str, Any]:
        return {"image_size": self.sizes[file]}

    def validate(self) -> list[str]:
        return self.problems

    def mask(self, row: int) -> Any:
        return self.pixels


def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faked: Faked, run: Any = None) -> list[Check]:
    def write(entry: Any, options: RunOptions, display: Any) -> None:
        assert options.out is not None
        assert options.warm is False
        options.out.mkdir(parents=True)
        (options.out / "predictions.npz").write_text("same")
        if run is not None:
            run(options)

    monkeypatch.setattr(conformance, "run_model", write)
    monkeypatch.setattr(conformance, "write_difficult_folder", lambda folder: folder.mkdir(parents=True))
    monkeypatch.setattr(conformance, "Predictions", SimpleNamespace(load=lambda path: faked))
    entry = model_entry(tmp_path / "stack")
    options = RunOptions(images=[])
    return check_models([entry], ["venv", "docker"], options, tmp_path / "out", SilentDisplay())


def problems(checks: list[Check]) -> dict[str, str]:
    return {one.what: one.problem for one in checks if one.problem is not None}


def test_a_good_model_passes_on_each_runtime_and_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = check(tmp_path, monkeypatch, Faked())
    assert problems(checks) == {}
    assert [one.runtime for one in checks] == ["venv"] * 6 + ["docker"] * 6 + ["venv, docker"]


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"files": [*SIZES]}, "every image has a row", "broken/empty.png"),
        ({"reasons": {"photo.jpg": "ValueError"}}, "every readable image is predicted", "photo.jpg: ValueError"),
        ({"sizes": {**SIZES, "turned.jpg": (90, 120)}}, "images have their upright size", "turned.jpg"),
        ({"problems": ["scores are wrong"]}, "the predictions are valid", "scores are wrong"),
        ({"pixels": np.zeros((6, 6), bool)}, "masks agree with boxes", "the mask of instance 0 is empty"),
        ({"pixels": np.ones((6, 6), bool)}, "masks agree with boxes", "leaves its box"),
    ],
)
def test_each_fault_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], what: str, words: str
) -> None:
    found = problems(check(tmp_path, monkeypatch, Faked(**changes)))
    assert list(found) == [what]
    assert words in found[what]


def test_workers_that_change_the_bytes_and_runs_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: RunOptions) -> None:
        if options.runtime == "docker":
            raise RunError("cannot load m: KeyError: 'x' (predictor.py:9)", log=Path("/logs/w0.log"))
        assert options.out is not None
        (options.out / "predictions.npz").write_text(str(options.workers))

    found = problems(check(tmp_path, monkeypatch, Faked(), run))
    assert set(found) == {"the same bytes whatever the workers", "it runs"}
    assert found["it runs"] == "cannot load m: KeyError: 'x' (predictor.py:9); log: /logs/w0.log"


def test_runtimes_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter(range(100))
    faked = Faked()
    original = conformance._compare
    monkeypatch.setattr(
        conformance, "_compare", lambda one, other: [*original(one, other), *(["scores"] if next(scores) == 0 else [])]
    )
    assert "scores of" in problems(check(tmp_path, monkeypatch, faked))["equal arrays on every runtime"]
    assert replace(Check("m", "r", "w", None), problem="p").as_json()["problem"] == "p"


def test_arrays_of_a_detector_are_compared_without_masks(tmp_path: Path) -> None:
    """NaN equals NaN in scores of images; an array that only one has is a difference."""
    arrays = {**sample_arrays(), "image_scores": np.array([0.1, np.nan, np.nan, 0.4], np.float32)}
    boxes = {name: array for name, array in arrays.items() if name not in ("masks", "mask_offsets")}
    moved = {**boxes, "boxes": boxes["boxes"] + 1}
    for name, one in (("masks", arrays), ("boxes", boxes), ("same", boxes), ("moved", moved)):
        (tmp_path / name).mkdir()
        save(one, tmp_path / name / "predictions.npz")
    assert conformance._compare(tmp_path / "boxes", tmp_path / "same") == []
    assert conformance._compare(tmp_path / "boxes", tmp_path / "moved") == ["boxes"]
    assert conformance._compare(tmp_path / "boxes", tmp_path / "masks") == ["mask_offsets", "masks"]
