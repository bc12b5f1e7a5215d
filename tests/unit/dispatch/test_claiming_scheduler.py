"""Tasks that share a run's shards: each is done, once while all live, and again by others when one is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.dispatch.shared.claiming_scheduler import LOOKS_PER_LEASE, PASS_SECONDS, ClaimingScheduler, claim_name
from orchestrator.dispatch.shared.claims import Claims
from orchestrator.inputs.collect import InputImage

LEASE = 100.0


class Run:
    """A run's shards on disk, and a clock."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self.shards = folder, range(shards)
        self.finished: set[int] = set()
        self.now = 0.0

    def task(self, index: int, of: int) -> ClaimingScheduler:
        return ClaimingScheduler(
            self.shards,
            images_of,
            Claims(self.folder, f"t{index}-{id(object())}", LEASE),
            self.finished.__contains__,
            (index, of),
            lambda: self.now,
        )

    def finish(self, task: ClaimingScheduler, number: int) -> None:
        self.finished.add(number)
        task.mark_done(number)

    def work_off(self, task: ClaimingScheduler) -> list[int]:
        """What a task gets to do until there is nothing for it."""
        done = []
        while (order := task.assign_next("w0")) is not None:
            self.finish(task, order.number)
            done.append(order.number)
        return done


def images_of(shard: int) -> Sequence[InputImage]:
    return [InputImage(shard, f"{shard}.png", f"0/{shard}.png", shard + 1, 1, 1)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, 10)


def test_a_task_begins_with_its_own_share_in_order_and_then_helps_the_others(run: Run) -> None:
    task = run.task(1, 3)
    first = [order.number for order in (task.assign_next("a"), task.assign_next("a"), task.assign_next("b")) if order]
    assert first == [3, 4, 5]
    for number in first:
        run.finish(task, number)
    assert sorted(run.work_off(task)) == [0, 1, 2, 6, 7, 8, 9]
    assert task.remaining == 0


@pytest.mark.parametrize("tasks", [1, 2, 3, 10, 17])
def test_all_shares_together_are_all_shards(run: Run, tasks: int) -> None:
    shares = [run.task(index, tasks) for index in range(tasks)]
    taken: list[int] = []
    for task in shares:
        while (order := task.assign_next(f"w{len(taken)}")) is not None:
            taken.append(order.number)
    assert sorted(set(taken)) == list(run.shards)
    assert len(taken) == len(set(taken)), "a shard was handed out twice"


def test_a_shard_in_hand_is_nobody_elses(run: Run) -> None:
    one, other = run.task(0, 1), run.task(0, 1)
    mine = [one.assign_next("a"), one.assign_next("a")]
    theirs = run.work_off(other)
    assert sorted(theirs) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert other.remaining == 2, "it waits for what the first has in hand"
    for order in mine:
        assert order is not None
        run.finish(one, order.number)
    assert other.assign_next("w0") is None
    run.now += PASS_SECONDS
    assert other.assign_next("w0") is None
    assert (one.remaining, other.remaining) == (8, 0)


def test_the_shards_of_a_task_that_is_lost_go_to_another_when_its_lease_runs_out(run: Run) -> None:
    lost, heir = run.task(0, 1), run.task(0, 1)
    order = lost.assign_next("a")
    assert order is not None
    assert sorted(run.work_off(heir)) == list(range(1, 10))
    run.now += PASS_SECONDS
    assert heir.assign_next("w0") is None
    then = time.time() - LEASE - 1
    os.utime(run.folder / claim_name(order.number), (then, then))
    run.now += LEASE / LOOKS_PER_LEASE
    assert run.work_off(heir) == [order.number]
    assert heir.remaining == 0


def test_the_folder_is_not_looked_through_again_at_once(run: Run) -> None:
    one, other = run.task(0, 1), run.task(0, 1)
    order = one.assign_next("a")
    run.work_off(other)
    assert order is not None
    run.finish(one, order.number)
    other.assign_next("w0")
    assert other.remaining == 1, "it does not know yet"
    run.now += PASS_SECONDS
    other.assign_next("w0")
    assert other.remaining == 0


def test_shards_that_are_on_disk_are_not_handed_out_and_their_claims_not_kept(run: Run) -> None:
    run.finished.update(range(8))
    task = run.task(0, 1)
    assert run.work_off(task) == [8, 9]
    assert not [path for path in run.folder.iterdir() if not path.name.startswith(".")]


def test_a_worker_that_is_lost_gives_its_shard_to_another_of_the_same_task(run: Run) -> None:
    task = run.task(0, 1)
    order = task.assign_next("a")
    assert order is not None
    assert task.record_loss("a", order.number, [], "killed")
    again = task.assign_next("b")
    assert again is not None
    assert (again.number, again.careful) == (order.number, True)


def test_one_is_claimed_ahead_before_there_is_a_worker(run: Run) -> None:
    task, other = run.task(0, 1), run.task(0, 1)
    assert (task.pending, task.pending) == (1, 1)
    assert 0 not in run.work_off(other)
    order = task.assign_next("a")
    assert order is not None
    assert order.number == 0
