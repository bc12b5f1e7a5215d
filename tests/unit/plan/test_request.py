"""What is asked of a model and what its network keeps to: the predictions say what they really have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import ModelEntry, load_catalog
from orchestrator.errors import SpecError, UsageError
from orchestrator.plan.request import most_detections, score_floor
from tests.unit.stack_samples import model_entry

SETTINGS = {"floor": {"default": 0.2, "help": "x"}, "most": {"default": 30, "help": "x"}}


def entry(folder: Path, limits: dict[str, Any], **defaults: Any) -> ModelEntry:
    return model_entry(folder, limits=limits, defaults=defaults, settings=SETTINGS)


@pytest.mark.parametrize(
    ("limit", "default", "asked", "floor"),
    [
        (None, None, None, None), (None, 0.1, None, 0.1), (None, 0.1, 0.0, 0.0),
        (0.05, None, None, 0.05), (0.05, 0.3, None, 0.3), (0.05, 0.01, None, 0.05), (0.05, None, 0.5, 0.5),
        ("floor", None, None, 0.2), ("floor", None, 0.2, 0.2),
    ],
)  # fmt: skip
def test_floors(tmp_path: Path, limit: Any, default: float | None, asked: float | None, floor: float | None) -> None:
    one = entry(tmp_path, {"score_threshold": limit}, score_threshold=default)
    assert score_floor(one, one.settings(()), asked) == floor


@pytest.mark.parametrize(
    ("limit", "default", "asked", "most"),
    [(None, None, None, None), (None, 9, 5, 5), (100, None, None, 100), (100, 20, None, 20), ("most", 99, None, 30)],
)
def test_most(tmp_path: Path, limit: Any, default: int | None, asked: int | None, most: int | None) -> None:
    one = entry(tmp_path, {"max_detections": limit}, max_detections=default)
    assert most_detections(one, one.settings(()), asked) == most


def test_what_the_network_cannot_do_is_refused(tmp_path: Path) -> None:
    one = entry(tmp_path, {"score_threshold": "floor", "max_detections": 100})
    with pytest.raises(UsageError, match=r"returns nothing that scores less than 0\.2") as low:
        score_floor(one, one.settings(()), 0.1)
    assert low.value.hint == "--set floor=0.1"
    assert score_floor(one, one.settings(["floor=0.1"]), 0.1) == 0.1
    with pytest.raises(UsageError, match="returns at most 100 instances") as many:
        most_detections(one, one.settings(()), 101)
    assert many.value.hint is None


def test_a_limit_names_a_setting_that_there_is(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"limits\.max_detections: unknown setting 'mst'"):
        entry(tmp_path, {"max_detections": "mst"})


def test_the_published_models_of_fashionpedia_are_comparable_as_they_come() -> None:
    models = [one for one in load_catalog().models.values() if one.spec.taxonomy == "fashionpedia"]
    floors = {one.name: score_floor(one, one.settings(()), None) for one in models}
    assert set(floors.values()) == {0.05}, floors
    assert {most_detections(one, one.settings(()), None) for one in models} == {100}
