"""A worker's state follows from its events alone, whatever order of them or nonsense a worker writes."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.dispatch.worker_state import WorkerState


def fold(*events: dict[str, Any]) -> WorkerState:
    """The state after these events, numbered as a worker numbers them."""
    state = WorkerState()
    for number, event in enumerate(events, 1):
        state.apply({"seq": number, **event})
    return state


def started(shard: int, reused: int = 0) -> dict[str, Any]:
    return {"event": "shard_started", "shard": shard, "reused": reused}


def test_the_status_names_what_a_worker_does() -> None:
    assert fold().status == "starting"
    assert fold({"event": "loading"}).status == "loading"
    ready = fold({"event": "loading"}, {"event": "ready", "versions": {"numpy": "2.0"}})
    assert (ready.status, ready.versions) == ("ready", {"numpy": "2.0"})
    assert fold({"event": "ready", "versions": {}}, started(7)).status == "shard 7"


def test_images_of_shards_under_way_count_until_the_shard_is_finished() -> None:
    begun = [started(3, reused=2), {"event": "progress", "shard": 3, "done": 5}, started(4, reused=1)]
    state = fold(*begun)
    assert (state.under_way, state.images_under_way, state.finished) == ({3: 5, 4: 1}, 6, set())
    state = fold(*begun, {"event": "shard_done", "shard": 3, "images": 8})
    assert (state.under_way, state.finished) == ({4: 1}, {3})


def test_the_announced_batch_is_that_of_a_shard_under_way() -> None:
    begun = [started(3), {"event": "batch", "shard": 3, "indices": [9, 10]}]
    assert fold(*begun).announced == (3, [9, 10])
    assert fold(*begun, {"event": "shard_done", "shard": 2}).announced == (3, [9, 10])
    assert fold(*begun, {"event": "shard_done", "shard": 3}).announced is None


def test_an_image_that_fails_again_counts_once() -> None:
    failed = {"event": "image_failed", "shard": 1, "index": 3}
    assert fold(failed, failed, {**failed, "index": 4}).failed_images == 2


def test_a_shard_whose_result_was_refused_is_not_under_way() -> None:
    state = fold(started(3), {"event": "batch", "shard": 3, "indices": [9]})
    state.drop(3)
    assert (state.under_way, state.announced, state.finished) == ({}, None, set())


def test_a_worker_that_exited_has_nothing_under_way() -> None:
    failure = {"event": "failure", "category": "load", "message": "no"}
    state = fold(started(1, reused=3), failure, {"event": "exit", "code": 3})
    assert (state.has_exited, state.images_under_way) == (True, 0)
    assert state.failure == {"seq": 2, **failure}


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": "shard_started"},
        {"event": "shard_started", "shard": "1", "reused": 0},
        {"event": "shard_done", "shard": None},
        {"event": "progress", "shard": 1, "done": "all"},
        {"event": "batch", "shard": 1, "indices": "0"},
        {"event": "failure"},
        {"event": "image_failed"},
        {"event": ["ready"]},
    ],
)
def test_an_event_without_its_fields_changes_nothing(event: dict[str, Any]) -> None:
    state = WorkerState()
    state.apply(event)
    assert state == WorkerState()


def test_failed_images_of_finished_shards_are_a_number() -> None:
    """A run of millions of images, most of which fail, must not fill the host's memory."""
    state = WorkerState()
    for shard in range(50):
        state.apply(started(shard))
        for index in range(20):
            state.apply({"event": "image_failed", "shard": shard, "index": index})
        state.apply({"event": "shard_done", "shard": shard, "images": 20})
        state.apply({"event": "image_failed", "shard": shard, "index": 3})
    assert (state.failed_images, state.failed) == (1000, {})
