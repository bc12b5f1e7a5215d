"""The row of an image: which instances it keeps, in which order, and how they are mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from orch_runner.predictor import Prediction
from orch_runner.shard_file import shard_path, write_rows
from orch_runner.shard_rows import make_failed_row, make_row

from tests.unit.guest.job_samples import make_job


def kept_scores(folder: Path, scores: list[float], floor: float | None, most: int | None = None) -> list[float]:
    """The scores that a row keeps of instances with these scores."""
    job = make_job(folder, score_threshold=floor, max_detections=most)
    count = len(scores)
    prediction = Prediction(np.zeros((count, 4), np.float32), np.zeros(count), np.array(scores, np.float32), None)
    kept: list[float] = make_row(job, "a.png", (4, 4), prediction).scores.tolist()
    return kept


@pytest.mark.parametrize("floor", [0.7, 0.1, 0.05, 0.3, 0.9])
def test_the_floor_is_compared_in_the_precision_of_scores(tmp_path: Path, floor: float) -> None:
    """As float32, 0.7 is smaller than 0.7: compared as float64 it would be dropped."""
    above, below = np.nextafter(np.float32(floor), np.array([1, 0], np.float32))
    assert kept_scores(tmp_path, [below, floor, above], floor) == [float(above), float(np.float32(floor))]


def test_best_first_and_no_more_than_the_limit(tmp_path: Path) -> None:
    assert kept_scores(tmp_path, [0.25, 0.75, 0.5], None, 2) == [0.75, 0.5]
    assert kept_scores(tmp_path, [0.25, 0.75, 0.5], 0.5, 3) == [0.75, 0.5]
    assert kept_scores(tmp_path, [0.25, 0.75, 0.5], None) == [0.75, 0.5, 0.25]


def test_scores_are_from_0_to_1(tmp_path: Path) -> None:
    assert kept_scores(tmp_path, [0.0, 1.0], None) == [1.0, 0.0]
    for wrong in (-1e-6, 1.00001, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"scores outside \[0, 1\]"):
            kept_scores(tmp_path, [0.5, wrong], None)


def test_attributes_follow_their_rows_into_the_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, attributes=2, image_scores=True)
    scores, attributes = np.array([0.25, 0.75], np.float32), np.array([[1, 2], [3, 4]], np.float32)
    prediction = Prediction(np.zeros((2, 4)), np.array([0, 2]), scores, None, attributes, image_score=0.5)
    row = make_row(job, "a.png", (4, 4), prediction)
    assert (row.classes.tolist(), row.attributes.tolist(), row.image_score) == ([7, 5], [[3, 4], [1, 2]], 0.5)
    write_rows(job, 0, [make_failed_row("bad.png", "x"), row])
    with np.load(shard_path(job.out, 0)) as stored:
        assert stored["attributes"].tolist() == [[3, 4], [1, 2]]
        assert stored["offsets"].tolist() == [0, 0, 2]
        np.testing.assert_array_equal(stored["image_scores"], np.array([np.nan, 0.5], np.float32))


@pytest.mark.parametrize("order", ["xyxy", "yxyx"])
def test_boxes_are_turned_and_cut_to_the_image(tmp_path: Path, order: str) -> None:
    job = make_job(tmp_path, native={"box_order": order, "class_base": 1, "class_map": [5]})
    given = np.array([[-1, 2, 30, 9.0005], [-0.0005, -0.5, 20, 10]], np.float32)
    if order == "yxyx":
        given = given[:, [1, 0, 3, 2]]
    row = make_row(job, "a.png", (9, 20), Prediction(given, np.array([1, 1]), np.array([0.9, 0.8]), None))
    expected = [[0, 2, 20, np.float32(9.0005)], [np.float32(-0.0005), 0, 20, 9]]
    assert row.boxes.tolist() == expected, "what is less than a thousandth of a pixel outside is the model's rounding"


@pytest.mark.parametrize("given", [[0], [4], [1.5], [np.nan]])
def test_classes_that_the_stack_does_not_map_are_refused(tmp_path: Path, given: list[float]) -> None:
    job = make_job(tmp_path, native={"box_order": "xyxy", "class_base": 1, "class_map": [5, 6, 7]})
    with pytest.raises(ValueError, match=r"which the stack does not map|not whole numbers"):
        make_row(job, "a.png", (9, 20), Prediction(np.zeros((1, 4)), np.array(given), np.array([0.9]), None))
