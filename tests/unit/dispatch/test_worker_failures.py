"""What a worker's end means: a slot is given up only for what is the slot's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.dispatch.worker_failures import MOST_DEVICE_FAILURES, MOST_IDLE_EXITS, WorkerFailure, WorkerFailures
from orchestrator.errors import MachineError, RunError
from orchestrator.runtimes.base import Exit


def failure(slot: int = 0, category: str | None = None, code: int = 137, idle: bool = True) -> WorkerFailure:
    event = None if category is None else {"category": category, "message": "the reason", "hint": "do this"}
    return WorkerFailure(slot, f"cuda:GPU-{slot}", Exit(code), event, idle, Path("w.log"))


def test_a_device_that_never_worked_is_given_up_at_once() -> None:
    error = WorkerFailures().judge(failure(category="device", code=4))
    assert isinstance(error, MachineError)
    assert (error.message, error.hint) == ("the reason", "do this")


def test_a_device_that_worked_is_tried_again_a_few_times_in_a_row() -> None:
    failures = WorkerFailures()
    failures.record_success(0)
    for _ in range(MOST_DEVICE_FAILURES - 1):
        assert failures.judge(failure(category="device", code=4)) is None
    failures.record_success(0)
    for _ in range(MOST_DEVICE_FAILURES - 1):
        assert failures.judge(failure(category="device", code=4)) is None
    error = failures.judge(failure(category="device", code=4))
    assert error is not None
    assert (error.message, error.why) == ("cuda:GPU-0 is lost", "the reason")


def test_a_device_that_fails_in_the_middle_of_shards_may_be_innocent() -> None:
    failures = WorkerFailures()
    failures.record_success(0)
    assert all(failures.judge(failure(category="device", code=4, idle=False)) is None for _ in range(20))


@pytest.mark.parametrize(("category", "kind"), [("load", RunError), ("weights", MachineError), ("output", RunError)])
def test_what_every_worker_would_meet_ends_the_run(category: str, kind: type[Exception]) -> None:
    failures = WorkerFailures()
    failures.record_success(1)
    with pytest.raises(kind, match="the reason"):
        failures.judge(failure(category=category, code=3))


@pytest.mark.parametrize("category", [None, "bug"])
def test_deaths_before_a_shard_give_up_the_slot_if_another_one_is_proven(category: str | None) -> None:
    failures = WorkerFailures()
    failures.record_success(1)
    found = [failures.judge(failure(0, category, 70)) for _ in range(MOST_IDLE_EXITS)]
    assert found[:-1] == [None] * (MOST_IDLE_EXITS - 1)
    assert isinstance(found[-1], RunError)


def test_deaths_before_a_shard_end_the_run_if_nothing_says_that_it_is_the_place() -> None:
    failures = WorkerFailures()
    failures.record_success(0)
    assert all(failures.judge(failure()) is None for _ in range(MOST_IDLE_EXITS - 1))
    with pytest.raises(RunError, match="before they begin"):
        failures.judge(failure())


def test_a_failure_that_came_with_a_signal_is_judged_by_the_signal() -> None:
    assert WorkerFailures().judge(failure(category="load", code=137)) is None


def test_a_lack_of_memory_to_load_one_more_model_is_the_slots() -> None:
    error = WorkerFailures().judge(failure(category="memory", code=3))
    assert isinstance(error, MachineError)
    assert (error.message, error.hint) == ("the reason", "do this")


def test_a_worker_killed_for_its_memory_while_others_work_gives_up_its_slot() -> None:
    killed = replace(failure(), exit=Exit(137, out_of_memory=True, hint="less"), others_work=True)
    error = WorkerFailures().judge(killed)
    assert isinstance(error, MachineError)
    assert (error.message, error.hint) == ("out of memory", "less")
    assert WorkerFailures().judge(replace(killed, others_work=False)) is None, "it may work when it is alone"
    assert WorkerFailures().judge(replace(killed, idle=False)) is None, "an image may be at fault"


def test_workers_that_load_elsewhere_prove_that_it_is_the_slot() -> None:
    failures, dying = WorkerFailures(), replace(failure(), others_work=True)
    found = [failures.judge(dying) for _ in range(MOST_IDLE_EXITS)]
    assert isinstance(found[-1], RunError)


def test_the_next_step_is_that_of_the_runner_or_of_the_runtime() -> None:
    assert replace(failure(), exit=Exit(137, hint="start the engine")).hint == "start the engine"
    assert replace(failure(category="device", code=4), exit=Exit(4, hint="no")).hint == "do this"
