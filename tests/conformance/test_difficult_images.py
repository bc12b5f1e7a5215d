"""Every image is accounted for, whatever it is; by every model on every runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import Predictions
from tests.conformance.conftest import Orch
from tests.conformance.pictures import SIZES, UNREADABLE

Run = tuple[Path, Any]


def test_the_exit_code_says_that_some_failed_and_the_failed_are_named(difficult_run: Run) -> None:
    out, done = difficult_run
    assert done.returncode == 1, done.stderr
    failures = {one["image_file"]: one["error"] for one in json.loads((out / "summary.json").read_text())["failures"]}
    assert set(failures) == UNREADABLE
    assert all(failures.values())
    for name in UNREADABLE:
        assert name in done.stderr


def test_every_image_has_its_row_and_its_size(difficult_run: Run) -> None:
    predictions = Predictions.load(difficult_run[0] / "predictions.npz")
    assert predictions.validate() == []
    assert sorted(predictions.files) == sorted([*SIZES, *UNREADABLE])
    sizes = {file: tuple(predictions[file]["image_size"]) for file in SIZES}
    assert sizes == SIZES


def test_files_that_are_no_images_are_reported(difficult_run: Run) -> None:
    out, done = difficult_run
    ignored = {one["file"]: one["reason"] for one in json.loads((out / "run.json").read_text())["ignored"]}
    assert ignored == {"notes.md": "not an image: .md", ".hidden.png": "hidden"}
    assert "2 other files skipped" in done.stderr


def test_nothing_is_left_behind_but_the_result(difficult_run: Run) -> None:
    out, _ = difficult_run
    assert not (out / "jobs").exists()
    assert [path.name for path in (out / "shards").iterdir() if not path.name[0].isdigit()] == []


def test_the_command_line_reads_what_it_wrote(orch: Orch, difficult_run: Run) -> None:
    out, _ = difficult_run
    orch("validate", out)
    assert "failed" in orch("inspect", out).stdout
    results = out / "results.json"
    orch("export", out, "--format", "coco", "-o", results)
    assert len(json.loads(results.read_text())) == len(Predictions.load(out / "predictions.npz").scores)
    orch("draw", out, "-o", out / "drawn")
    assert len(list((out / "drawn").rglob("*.png"))) == len(SIZES)


def test_masks_agree_with_boxes(difficult_run: Run) -> None:
    predictions = Predictions.load(difficult_run[0] / "predictions.npz")
    if predictions.is_boxes_only:
        assert "masks" not in predictions.arrays
        return
    for row, box in enumerate(predictions.boxes):
        rows, columns = np.nonzero(predictions.mask(row))
        assert len(rows), "an instance without a pixel"
        assert box[0] <= columns.min() + 1
        assert box[2] >= columns.max()
        assert box[1] <= rows.min() + 1
        assert box[3] >= rows.max()
