"""The end of a run: what is complete is known by content, and odd lines of events cost nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.outcome import finish, read_outcome, read_versions
from orchestrator.dispatch.shard_intake import ShardIntake
from orchestrator.errors import RunError
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.predictions.predictions import Predictions
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.run import _find_outcome
from tests.unit.dispatch.intake_samples import shard_of, write_shard
from tests.unit.dispatch.slurm_samples import begun, make_plan

RESULT = DispatchResult((), 0, 1.0)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path)


@pytest.fixture
def paths(tmp_path: Path, plan: Plan) -> RunPaths:
    """A run whose shards are all there."""
    paths = begun(tmp_path, plan, job=None)
    for number in plan.shards:
        write_shard(paths.shards, number, shard_of(plan, number))
    return paths


def test_a_complete_run_is_known_by_the_digest_of_its_predictions(plan: Plan, paths: RunPaths) -> None:
    assert read_outcome(paths) is None
    outcome = finish(plan, paths, RESULT)
    found = read_outcome(paths)
    assert found is not None
    assert found.summary == outcome.summary == json.loads(paths.summary.read_text())
    content = bytearray(paths.predictions.read_bytes())
    content[len(content) // 2] ^= 1
    paths.predictions.write_bytes(content)
    assert read_outcome(paths) is None
    assert _find_outcome(paths, {"shard_size": 2}, SilentDisplay()) is None, (
        "the shards are kept: they are collected again"
    )
    again = finish(plan, paths, RESULT)
    assert again.summary["predictions_sha256"] == outcome.summary["predictions_sha256"]


def test_damaged_predictions_without_shards_are_named(plan: Plan, paths: RunPaths) -> None:
    finish(plan, paths, RESULT)
    paths.predictions.unlink()
    for number in plan.shards:
        paths.shard(number).unlink()
    with pytest.raises(RunError, match=str(paths.predictions)) as caught:
        _find_outcome(paths, {"shard_size": 2}, SilentDisplay())
    assert "remove" in str(caught.value.hint)


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


SUMMARY_DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe"),
    "null": lambda path: path.write_text("null"),
    "an object": lambda path: path.write_text("{}"),
    "odd kinds": lambda path: path.write_text(path.read_text().replace('"failed": 0', '"failed": "none"')),
    "counts that do not add up": lambda path: path.write_text(path.read_text().replace('"failed": 0', '"failed": 3')),
    "a FIFO": as_fifo,
    "a link": as_link,
}


@pytest.mark.parametrize("damage", SUMMARY_DAMAGES.values(), ids=SUMMARY_DAMAGES.keys())
def test_a_damaged_summary_is_written_again(plan: Plan, paths: RunPaths, damage: Callable[[Path], object]) -> None:
    summary = finish(plan, paths, RESULT).summary
    damage(paths.summary)
    assert _find_outcome(paths, {"shard_size": 2}, SilentDisplay()) is None
    assert finish(plan, paths, RESULT).summary["predictions_sha256"] == summary["predictions_sha256"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_shard_is_named_and_not_waited_for(plan: Plan, paths: RunPaths, make: Callable[[Path], Any]) -> None:
    paths.shard(1).unlink()
    make(paths.shard(1))
    with pytest.raises(RunError, match=r"00001\.npz"):
        finish(plan, paths, RESULT)


def test_a_shard_that_was_given_up_is_collected_like_the_others(plan: Plan, paths: RunPaths) -> None:
    ShardIntake(plan, paths).fail(1, "the worker's result breaks the rules")
    assert finish(plan, paths, RESULT).failed == 2
    predictions = Predictions.load(paths.predictions)
    assert predictions.validate() == []
    assert predictions.error.tolist()[2:4] == ["the worker's result breaks the rules"] * 2


def test_odd_lines_of_events_cost_nothing(paths: RunPaths) -> None:
    ready = {"event": "ready", "worker": "w0", "versions": {"numpy": "2"}}
    odd = [b"\xff\xfe", b"[]", b"{", b'{"event": "ready", "worker": [], "seq": "x", "versions": 7}', b"[" * 100_000,
           b'{"event": "shard_done", "seq": 1e999, "shard": {}}']  # fmt: skip
    paths.events.write_bytes(b"\n".join([*odd, json.dumps(ready).encode(), b'{"event"']) + b"\n")
    assert read_versions(paths) == {"numpy": "2"}
