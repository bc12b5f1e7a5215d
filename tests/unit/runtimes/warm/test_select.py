"""Which runs may go to warm workers at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.paths import RunPaths
from orchestrator.runtimes.warm.select import Wish, check_wish, refusal


@pytest.mark.parametrize(
    ("warm", "runtime", "executor", "begun", "own_weights", "why_not"),
    [
        (None, "auto", "local", None, False, None),
        (True, "docker", "local", "docker", False, None),
        (False, "auto", "local", None, False, "not wanted"),
        (None, "venv", "local", None, False, "the runtime asked for is venv"),
        (None, "apptainer", "local", None, False, "the runtime asked for is apptainer"),
        (None, "auto", "slurm", None, False, "workers run where the executor slurm has them"),
        (None, "auto", "local", None, True, "the weights are none that warm workers see"),
    ],
)
def test_a_run_may_go_to_warm_workers_or_there_is_a_reason(
    warm: bool | None,
    runtime: str,
    executor: str,
    begun: str | None,
    own_weights: bool,
    why_not: str | None,
    tmp_path: Path,
) -> None:
    paths = RunPaths(tmp_path)
    if begun is not None:
        paths.run_json.write_text(json.dumps({"request": {"runtime": begun}}))
    assert refusal(Wish(warm), runtime, executor, paths, own_weights) == why_not


def test_a_run_begun_with_another_runtime_goes_on_with_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.run_json.write_text(json.dumps({"request": {"runtime": "venv"}}))
    why_not = refusal(Wish(None), "auto", "local", paths, False)
    assert why_not == f"the run in {tmp_path} was begun with the runtime venv"


def test_asked_for_what_cannot_be_is_an_error_and_else_the_run_is_cold() -> None:
    assert check_wish(Wish(None), None)
    assert check_wish(Wish(True), None)
    assert not check_wish(Wish(None), "a reason")
    with pytest.raises(UsageError) as caught:
        check_wish(Wish(True), "a reason")
    assert caught.value.why == "a reason"
