"""The instance made of a probability: pixels above the threshold, not at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from orch_runner.predictor import Prediction
from orch_runner.probability import THRESHOLD_SETTING, make_instance

from tests.unit.guest.job_samples import make_job

NOTHING = np.zeros(0, np.float32)


def instance(folder: Path, probability: np.ndarray, settings: dict[str, float]) -> Prediction:
    whole = Prediction(NOTHING.reshape(0, 4), NOTHING, NOTHING, None, image_score=0.25)
    return make_instance(make_job(folder, settings), whole, probability.astype(np.float32))


@pytest.mark.parametrize(("settings", "threshold"), [({}, 0.5), ({THRESHOLD_SETTING: 0.25}, 0.25)])
def test_a_pixel_at_the_threshold_is_not_part_of_the_instance(
    tmp_path: Path, settings: dict[str, float], threshold: float
) -> None:
    at = np.full((3, 4), threshold)
    empty = instance(tmp_path, at, settings)
    assert (len(empty.scores), empty.masks, empty.image_score) == (0, None, 0.25)
    at[1, 2] = np.nextafter(np.float32(threshold), np.float32(1))
    found = instance(tmp_path, at, settings)
    assert found.boxes.tolist() == [[2, 1, 3, 2]]
    assert found.scores.tolist() == [at[1, 2]]
    assert found.masks[0].pixels.tolist() == [[True]]
    assert (found.masks[0].x, found.masks[0].y, found.image_score) == (2, 1, 0.25)
