"""Which instances a row keeps: the score floor and the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from orch_runner.predictor import Prediction
from orch_runner.shard_rows import make_row

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
