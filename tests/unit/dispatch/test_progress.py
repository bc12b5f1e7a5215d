"""Progress of a run on a cluster as its tasks' events tell it, and what is said of each task."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.dispatch.shared.progress import EventTail, RunProgress, describe_tasks, shard_sizes
from orchestrator.dispatch.submitter import QueuedTask


def test_shards_under_way_count_with_their_images_and_done_twice_counts_once() -> None:
    progress = RunProgress(shard_sizes(25, 10), {2})
    assert progress.images == 5
    progress.apply("t0", {"event": "shard_started", "worker": "w0", "shard": 0, "reused": 0})
    progress.apply("t1", {"event": "shard_started", "worker": "w0", "shard": 0, "reused": 3})
    progress.apply("t0", {"event": "progress", "worker": "w0", "shard": 0, "done": 4})
    assert progress.images == 9
    progress.apply("t0", {"event": "image_failed", "worker": "w0", "shard": 0, "index": 3})
    for task in ("t0", "t1"):
        progress.apply(task, {"event": "shard_done", "worker": "w0", "shard": 0, "images": 10})
    assert (progress.images, progress.failed, progress.finished) == (15, 1, {0, 2})


def test_what_a_worker_that_ended_had_under_way_does_not_count() -> None:
    progress = RunProgress(shard_sizes(20, 10))
    progress.apply("t0", {"event": "shard_started", "worker": "w0", "shard": 1, "reused": 0})
    progress.apply("t0", {"event": "progress", "worker": "w0", "shard": 1, "done": 6})
    progress.apply("t0", {"event": "exit", "worker": "w0", "code": 137})
    assert (progress.images, progress.statuses) == (0, {})


def test_events_are_read_once_whole_lines_only_and_odd_lines_not_at_all(tmp_path: Path) -> None:
    tail = EventTail(tmp_path)
    assert list(tail.read_new()) == []
    file = tmp_path / "t0.jsonl"
    file.write_text('{"event": "ready"}\nnonsense\n{"event": "prog')
    assert list(tail.read_new()) == [("t0", {"event": "ready"})]
    with file.open("a") as stream:
        stream.write('ress"}\n')
    (tmp_path / "t1.jsonl").write_text(json.dumps({"event": "loading"}) + "\n")
    assert list(tail.read_new()) == [("t0", {"event": "progress"}), ("t1", {"event": "loading"})]
    assert list(tail.read_new()) == []


def test_each_task_in_the_queue_is_told_with_what_its_newest_start_is_at() -> None:
    records = [
        {"index": 0, "task": "t0-a", "state": "stopped"},
        {"index": 0, "task": "t0-b", "state": "predicting"},
        {"index": 1, "task": "t1-a", "state": "preparing"},
        {"index": 2, "task": "t2-a", "state": "stopped"},
    ]
    queued = [
        QueuedTask(0, "RUNNING", "n1", "None"),
        QueuedTask(1, "RUNNING", "n2", "None"),
        QueuedTask(2, "PENDING", "", "BeginTime"),
        QueuedTask(3, "COMPLETING", "n3", "None"),
    ]
    assert describe_tasks(records, queued, {"t0-b": "shard 7"}) == {
        "task 0": "shard 7, on n1",
        "task 1": "preparing, on n2",
        "task 2": "pending (BeginTime)",
        "task 3": "completing",
    }
