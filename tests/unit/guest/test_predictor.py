"""What a stack's predictor is given where it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from orch_runner.predictor import Image, Model, Prediction, Predictor

ROOT = Path(__file__).parents[3]


def test_a_predictor_gets_single_rgb_images_by_pillow() -> None:
    methods = {name: lambda self, *_: None for name in ("load", "predict")}
    predictor = type("Least", (Predictor,), methods)()
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


def test_a_model_is_its_own_architecture_unless_told_otherwise() -> None:
    assert Model("m", {}).architecture == "m"
    mine = Model("mine", {"pth": "/w/x.pth", "config": "/w/mine.py"}, architecture="m")
    assert (mine.name, mine.architecture, mine.own_config, Model("m", {}).own_config) == ("mine", "m", "/w/mine.py", "")


def test_what_a_stack_must_write_itself_is_said() -> None:
    with pytest.raises(NotImplementedError, match="cannot make random weights"):
        Predictor.make_random_weights(Model("m", {}), "folder")


@pytest.mark.parametrize("missing", ["load", "predict"])
def test_a_predictor_without_a_method_cannot_be_made(missing: str) -> None:
    methods = {name: lambda self, *_: None for name in ("load", "predict") if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}'?"):
        type("Incomplete", (Predictor,), methods)()


@pytest.mark.parametrize(
    "file", [*(ROOT / "Dockerfiles").glob("*"), ROOT / "orchestrator/templates/stack/NAME.Dockerfile.template"]
)
def test_every_smoke_test_makes_a_predictor(file: Path) -> None:
    assert "predictor.Predictor()" in file.read_text()
