"""What a stack's predictor is given where it says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from orch_runner.predictor import Image, Model, Prediction, Predictor


def test_a_predictor_gets_single_rgb_images_by_pillow() -> None:
    predictor = Predictor()
    assert (predictor.color, predictor.decoder, predictor.max_batch, predictor.framework) == ("RGB", "pillow", 1, "")
    result: Any = object()
    assert predictor.finish(result, Image("a", result)) is result


def test_a_prediction_without_anything_is_empty() -> None:
    nothing = Prediction()
    assert (nothing.boxes.shape, nothing.classes.shape, nothing.scores.shape) == ((0, 4), (0,), (0,))
    assert [nothing.masks, nothing.attributes, nothing.image_score, nothing.probability] == [None] * 4


def test_a_model_runs_on_one_thread_unless_told_otherwise() -> None:
    model = Model("m", {})
    assert (model.threads, model.score_threshold, model.settings, model.config) == (1, None, {}, "")


def test_what_a_stack_must_write_itself_is_said() -> None:
    with pytest.raises(NotImplementedError, match="cannot make random weights"):
        Predictor.make_random_weights(Model("m", {}), "folder")
    with pytest.raises(NotImplementedError):
        Predictor().load(Model("m", {}), "cpu")
    with pytest.raises(NotImplementedError):
        Predictor().predict([])
