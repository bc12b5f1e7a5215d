"""The options of a run: their bounds, and what is the case where nothing is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.plan.options import MAX_WORKERS_PER_GPU, RunOptions


def options(**values: Any) -> RunOptions:
    return RunOptions(images=("x",), **values)


def test_without_options_the_run_is_the_plain_one() -> None:
    plain = options()
    asked = {name: value for name, value in plain.model_dump().items() if value not in (None, (), False)}
    build = asked.pop("build")
    assert asked == {"images": ("x",), "runtime": "auto", "executor": "local", "exif": "apply", "wait": True}
    assert not any(build.values())


@pytest.mark.parametrize("value", ["1", 2, str(MAX_WORKERS_PER_GPU)])
def test_workers_per_gpu_are_counted(value: object) -> None:
    assert options(workers_per_gpu=value).workers_per_gpu == int(str(value))


def test_workers_per_gpu_can_be_left_to_orch_or_out() -> None:
    assert options(workers_per_gpu="auto").workers_per_gpu == "auto"
    assert options(workers_per_gpu=None).workers_per_gpu is None


@pytest.mark.parametrize("value", ["0", str(MAX_WORKERS_PER_GPU + 1), "-1", "x", "1.5", "٣", "²", "", 0])
def test_other_numbers_of_workers_per_gpu_are_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=f"must be a number from 1 to {MAX_WORKERS_PER_GPU}, or auto"):
        options(workers_per_gpu=value)


@pytest.mark.parametrize("name", ["max_detections", "batch_size", "shard_size", "workers", "threads"])
def test_numbers_are_at_least_one(name: str) -> None:
    assert getattr(options(**{name: 1}), name) == 1
    with pytest.raises(ValidationError):
        options(**{name: 0})


def test_a_score_is_from_0_to_1() -> None:
    assert [options(score_threshold=value).score_threshold for value in (0, 1)] == [0, 1]
    for value in (-0.01, 1.01):
        with pytest.raises(ValidationError):
            options(score_threshold=value)


def test_options_cannot_change_and_unknown_ones_are_refused() -> None:
    with pytest.raises(ValidationError):
        options(imags=("y",))
    with pytest.raises(ValidationError):
        options().runtime = "docker"
