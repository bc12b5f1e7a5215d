"""The schedule: every shard is done exactly once whatever dies, and only an image that kills is given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.dispatch.scheduler import (
    DEATHS_TO_BLAME,
    MOST_DEATHS,
    QUEUED_PER_WORKER,
    Scheduler,
    sort_largest_first,
)
from orchestrator.inputs.collect import InputImage
from orchestrator.runtimes.guest_contract import ShardOrder

SHARD_SIZE = 4


def images_of(shard: int) -> Sequence[InputImage]:
    first = shard * SHARD_SIZE
    return [InputImage(index, f"{index}.jpg", f"0/{index}.jpg", index + 1, 1, 1) for index in range(first, first + 4)]


def schedule(shards: int) -> Scheduler:
    return Scheduler(range(shards), images_of)


def numbers(plan: Scheduler, worker: str) -> list[int]:
    """What a worker is given until it has enough."""
    given: list[int] = []
    while (order := plan.assign_next(worker)) is not None:
        given.append(order.number)
    return given


def test_shards_are_given_in_order_a_few_at_a_time() -> None:
    plan = schedule(7)
    assert numbers(plan, "a") == [0, 1]
    assert numbers(plan, "b") == [2, 3]
    assert numbers(plan, "a") == []
    plan.mark_done(0)
    assert numbers(plan, "a") == [4]
    assert (plan.remaining, plan.pending, plan.shards_of("a")) == (6, 2, (1, 4))
    for number in (1, 4, 2, 3):
        assert plan.mark_done(number)
    assert numbers(plan, "b") == [5]
    assert numbers(plan, "a") == [6]


def test_towards_the_end_nobody_gets_a_second_shard() -> None:
    """What waits behind a long shard is what a run ends with."""
    plan = schedule(4)
    for worker in ("a", "b", "c"):
        plan.add_worker(worker)
    assert (numbers(plan, "a"), numbers(plan, "b"), numbers(plan, "c")) == ([0], [1], [2])
    plan.mark_done(1)
    assert (numbers(plan, "a"), numbers(plan, "b")) == ([], [3])
    plan.remove_worker("b")
    assert (plan.remaining, plan.pending) == (3, 0)


def test_a_shard_that_waits_can_be_taken_back() -> None:
    plan = schedule(4)
    assert numbers(plan, "a") == [0, 1]
    plan.take_back("a", 1)
    assert plan.shards_of("a") == (0,)
    assert numbers(plan, "b") == [1]


def test_a_shard_two_workers_predicted_counts_once() -> None:
    plan = schedule(3)
    numbers(plan, "a")
    plan.take_back("a", 1)
    numbers(plan, "b")
    assert [plan.mark_done(1), plan.mark_done(1)] == [True, False]
    assert plan.remaining == 2


def test_shards_of_many_bytes_come_first() -> None:
    assert sort_largest_first(range(4), lambda shard: (5, 9, 5, 7)[shard]) == [1, 3, 0, 2]


def test_a_first_order_says_nothing_special() -> None:
    assert schedule(1).assign_next("a") == ShardOrder(0, images_of(0))


def test_what_was_done_counts_once() -> None:
    plan = schedule(2)
    numbers(plan, "a")
    assert [plan.mark_done(0), plan.mark_done(0), plan.mark_done(7)] == [True, False, False]
    assert plan.remaining == 1


def test_a_lost_workers_shards_go_back_to_the_front() -> None:
    plan = schedule(6)
    assert (numbers(plan, "a"), numbers(plan, "b")) == ([0, 1], [2, 3])
    assert plan.record_loss("a", 0, [], "killed")
    assert numbers(plan, "c") == [0, 1]
    assert plan.record_loss("b", None, [], "killed")
    assert numbers(plan, "d") == [2, 3]
    assert plan.record_loss("nobody", 5, [], "killed")
    assert plan.remaining == 6


def test_after_a_death_all_of_a_workers_shards_are_careful_and_nobody_is_blamed() -> None:
    plan = schedule(2)
    numbers(plan, "a")
    plan.record_loss("a", 0, [2], "killed")
    first, second = plan.assign_next("b"), plan.assign_next("b")
    assert first == ShardOrder(0, images_of(0), {}, True)
    assert second == ShardOrder(1, images_of(1), {}, True)


def test_a_worker_that_died_before_it_began_blames_nothing() -> None:
    plan = schedule(1)
    plan.assign_next("a")
    plan.record_loss("a", None, [], "killed")
    assert plan.assign_next("b") == ShardOrder(0, images_of(0))


def test_a_batch_that_died_together_is_tried_one_by_one() -> None:
    plan = schedule(1)
    plan.assign_next("a")
    plan.record_loss("a", 0, [1, 2], "killed")
    assert plan.assign_next("b") == ShardOrder(0, images_of(0), {}, True, frozenset({1, 2}))


def test_an_image_that_killed_alone_often_enough_is_given_up_with_the_reason() -> None:
    plan = schedule(1)
    for attempt in range(DEATHS_TO_BLAME):
        order = plan.assign_next(f"w{attempt}")
        assert order is not None
        assert order.skip == {}
        assert plan.record_loss(f"w{attempt}", 0, [3], "segmentation fault")
    order = plan.assign_next("last")
    assert order is not None
    assert order.skip == {3: "the worker died on this image (segmentation fault)"}


def test_deaths_without_an_image_to_blame_end_the_run() -> None:
    plan = schedule(1)
    verdicts = []
    for attempt in range(MOST_DEATHS):
        plan.assign_next(f"w{attempt}")
        verdicts.append(plan.record_loss(f"w{attempt}", 0, [], "killed"))
    assert verdicts == [True] * (MOST_DEATHS - 1) + [False]


@dataclass
class World:
    """Workers that predict images one batch after another; some images kill, and so does chance."""

    shards: int
    poison: frozenset[int]
    batch_size: int
    plan: Scheduler = field(init=False)
    done: list[int] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    queues: dict[str, list[ShardOrder]] = field(default_factory=dict)
    accidents: dict[int, int] = field(default_factory=dict)
    """How often chance killed a worker that had announced that image and no other."""
    crashes: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        self.plan = schedule(self.shards)

    def feed(self, worker: str) -> None:
        queue = self.queues.setdefault(worker, [])
        while (order := self.plan.assign_next(worker)) is not None:
            queue.append(order)
        assert len(queue) <= QUEUED_PER_WORKER

    def start(self) -> str:
        self.workers += 1
        worker = f"w{self.workers}"
        self.feed(worker)
        return worker

    def die(self, worker: str, batch: Sequence[int]) -> bool:
        queue = self.queues.pop(worker)
        return self.plan.record_loss(worker, queue[0].number if queue else None, batch, "killed")

    def batches(self, order: ShardOrder) -> list[list[int]]:
        left = [image.index for image in order.images if image.index not in order.skip]
        together = [index for index in left if index not in order.alone]
        cut = [together[at : at + self.batch_size] for at in range(0, len(together), self.batch_size)]
        return cut + [[index] for index in left if index in order.alone]

    def work(self, worker: str, accident: int | None) -> tuple[bool, bool]:
        """Work on the next shard: (whether the worker lives, whether the run goes on)."""
        order = self.queues[worker][0]
        for number, batch in enumerate(self.batches(order)):
            if self.poison & set(batch):
                return False, self.die(worker, batch if order.careful else [])
            if number == accident:
                self.crashes += 1
                if order.careful and len(batch) == 1:
                    self.accidents[batch[0]] = self.accidents.get(batch[0], 0) + 1
                return False, self.die(worker, batch if order.careful else [])
        self.queues[worker].pop(0)
        self.plan.mark_done(order.number)
        self.done.append(order.number)
        self.skipped |= order.skip
        self.feed(worker)
        return True, True


@settings(max_examples=150, deadline=None)
@given(
    shards=st.integers(1, 6),
    poison=st.sets(st.integers(0, 23), max_size=5),
    batch_size=st.integers(1, 4),
    workers=st.integers(1, 3),
    accidents=st.lists(st.none() | st.integers(0, 3), max_size=12),
)
def test_every_shard_is_done_once_and_poison_is_skipped(
    shards: int, poison: set[int], batch_size: int, workers: int, accidents: list[int | None]
) -> None:
    world = World(shards, frozenset(poison), batch_size)
    alive = [world.start() for _ in range(workers)]
    goes_on = True
    for turn in range(2000):
        if not world.plan.remaining or not goes_on:
            break
        worker = alive[turn % workers]
        if not world.queues[worker]:
            world.feed(worker)
            continue
        lives, goes_on = world.work(worker, accidents.pop() if accidents else None)
        if not lives:
            alive[turn % workers] = world.start()
    innocent = set(world.skipped) - poison
    assert all(world.accidents.get(index, 0) >= DEATHS_TO_BLAME for index in innocent), "never by a single death"
    if goes_on:
        assert sorted(world.done) == list(range(shards))
        assert world.plan.remaining == 0
        assert {index for index in poison if index < shards * SHARD_SIZE} <= set(world.skipped)
    else:
        assert world.crashes > 0, "poison alone never ends a run"


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_shard_of_poison_alone_is_finished(batch_size: int) -> None:
    world = World(1, frozenset(range(4)), batch_size)
    worker, goes_on = world.start(), True
    while world.plan.remaining:
        lives, goes_on = world.work(worker, None)
        assert goes_on
        worker = worker if lives else world.start()
    assert set(world.skipped) == {0, 1, 2, 3}
