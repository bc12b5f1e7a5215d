"""The table of tasks: what follows from a row, and that a further task is one row of it and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from orch_runner.predictor import Prediction
from orch_runner.shard_rows import make_row

from orchestrator.catalog.tasks import INSTANCES, PROBABILITY, TASKS, Task, get_task, task_of
from orchestrator.cli import main
from orchestrator.cli.schema import make_schema
from orchestrator.dispatch.launcher import job_settings
from orchestrator.errors import PredictionsError, SpecError, UsageError
from orchestrator.plan.shards import shard_rules
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import PAIRED
from tests.unit.dispatch.intake_samples import shard_of, write_shard
from tests.unit.dispatch.test_shard_intake import Case
from tests.unit.guest.job_samples import make_job
from tests.unit.predictions.predictions_samples import META, sample_arrays, save
from tests.unit.stack_samples import model_entry

ROOT = Path(__file__).parents[3]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A seventh task: boxes alone, with a score of each image."""
    task = Task("toy-counting", "boxes, and how crowded an image is", has_masks=False, has_image_scores=True)
    monkeypatch.setitem(TASKS, task.name, task)
    return task


def sample_of(task: str) -> dict[str, Any]:
    """Return the sample's arrays as those of a task."""
    return {**sample_arrays(), "meta": np.array(json.dumps({**META, "task": task}))}


def save_as(task: str, path: Path, *, masks: bool = True) -> Path:
    """Save the sample as predictions of a task, without its masks where `masks` is false."""
    arrays = sample_of(task)
    if not masks:
        del arrays["masks"], arrays["mask_offsets"]
    return save(arrays, path)


def test_a_further_task_is_one_row(toy: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model_entry(tmp_path / "stack", task=toy.name).spec.task == toy.name
    assert f'"{toy.name}"' in json.dumps(make_schema("stack.yaml"))
    plan = Case(tmp_path / "case", task=toy.name).plan
    assert plan.predictions_meta()["task"] == toy.name
    settings = job_settings(plan, 1)
    assert (settings["masks"], settings["image_scores"], settings["pixels"]) == (False, True, None)
    rules = shard_rules(plan)
    assert (rules.has("masks"), rules.has("mask_offsets"), rules.has("image_scores")) == (False, False, True)
    assert not plan.has_pictures
    boxes = Predictions.load(save_as(toy.name, tmp_path / "boxes.npz", masks=False))
    assert boxes.validate() == []
    assert boxes.is_boxes_only
    assert str(Predictions.load(save_as(toy.name, tmp_path / "masks.npz")).validate()[0]) == (
        f"masks: the task {toy.name} has no masks"
    )
    assert main(["eval", str(tmp_path / "boxes.npz")]) == 2
    assert "--annotations COCO.json\n" in capsys.readouterr().err


def test_no_module_asks_for_a_task_by_name() -> None:
    """Of all source files only the table has names of tasks in code that decides."""
    asks = re.compile(r"\btask\b[^\n]*(==|!=| in )[^\n]*(\"[a-z]+-[a-z]+\"|MANIPULATION|TASK\b)")
    files = [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "images" / "runner").rglob("*.py")]
    assert len(files) > 100
    found = [f"{file.name}: {line}" for file in files for line in file.read_text().splitlines() if asks.search(line)]
    assert found == []


def test_an_unknown_task_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown task 'object-detektion'") as caught:
        get_task("object-detektion")
    assert caught.value.why == "did you mean object-detection?"
    with pytest.raises(SpecError) as refused:
        model_entry(tmp_path, task="object-detektion")
    assert "unknown task 'object-detektion': did you mean object-detection?" in str(refused.value)


def test_predictions_of_a_task_that_is_not_known_are_those_of_instances() -> None:
    assert task_of({"task": "of-another-program"}).name == task_of({}).name == task_of(None).name == INSTANCES


def test_words_are_those_of_the_taxonomy_except_for_manipulation() -> None:
    assert get_task("binary-segmentation").describe_images("person") == ("with person", "without person")
    assert get_task("manipulation-localization").describe_images("forged") == ("manipulated", "genuine")
    assert {name for name, task in TASKS.items() if task.pixels == PROBABILITY} == {
        "binary-segmentation",
        "manipulation-localization",
    }


def test_a_detector_that_found_nothing_is_compared_by_boxes(tmp_path: Path) -> None:
    """Without instances there are no masks in either case: the task tells a detector from a segmenter."""
    empty = {name: array[:0] for name, array in sample_arrays().items() if name in ("boxes", "classes", "scores")}
    loaded = {}
    for task in ("object-detection", INSTANCES):
        arrays = {**sample_of(task), **empty}
        for name in ("masks", "mask_offsets", "attributes"):
            arrays.pop(name, None)
        arrays["offsets"] = np.zeros_like(arrays["offsets"])
        loaded[task] = Predictions(arrays)
    assert loaded["object-detection"].is_boxes_only
    assert not loaded[INSTANCES].is_boxes_only
    with pytest.raises(PredictionsError, match="have no masks"):
        loaded["object-detection"].require_masks()


def test_a_shard_with_masks_of_a_task_without_them_is_refused(tmp_path: Path) -> None:
    case = Case(tmp_path, task="object-detection")
    case.write()
    assert case.refused().reason == "it has the array 'masks', which this model does not give"
    arrays = shard_of(case.plan, 0)
    write_shard(case.folder, 0, {name: array for name, array in arrays.items() if name not in PAIRED})
    case.take()
    assert case.paths.shard(0).exists()
    failed = case.intake.fail(1, "lost")
    assert (failed.images, failed.failed) == (2, 2)
    with np.load(case.paths.shard(1)) as stored:
        assert {"masks", "mask_offsets", "image_scores"}.isdisjoint(stored.files)


ONE = {"boxes": np.array([[0, 0, 2, 2]]), "classes": np.array([0]), "scores": np.array([0.5])}


def test_the_runner_refuses_what_the_task_does_not_have(tmp_path: Path) -> None:
    boxes = make_job(tmp_path, masks=False, model={**MODEL, "task": "object-detection"})
    assert make_row(boxes, "a.png", (4, 4), Prediction(**ONE)).masks is None
    assert make_row(boxes, "a.png", (4, 4), Prediction(masks=[])).masks is None
    with pytest.raises(ValueError, match="gave masks; the task object-detection has none"):
        make_row(boxes, "a.png", (4, 4), Prediction(**ONE, masks=np.ones((1, 4, 4), bool)))
    with pytest.raises(ValueError, match="gave a probability per pixel; the task object-detection has instances"):
        make_row(boxes, "a.png", (4, 4), Prediction(probability=np.zeros((4, 4))))


MODEL: dict[str, Any] = {"name": "m", "settings": {}, "config": None, "weights": {}}
