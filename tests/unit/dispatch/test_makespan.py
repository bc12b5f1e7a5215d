"""How long many workers take: the real schedule in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bench.fake_gpus import uneven_costs
from orchestrator.dispatch.scheduler import Scheduler, sort_largest_first
from orchestrator.inputs.collect import InputImage
from orchestrator.plan.shards import default_shard_size

IMAGES, WORKERS = 1000, 8


@dataclass
class World:
    """Workers on the real schedule; one may be killed in the middle of a shard, and another starts some time later."""

    costs: Sequence[float]
    workers: int
    kill_at: float | None = None
    restart: float = 0.0
    done: list[int] = field(default_factory=list)

    def images_of(self, shard: int) -> list[InputImage]:
        size = default_shard_size(len(self.costs))
        numbers = range(shard * size, min(len(self.costs), (shard + 1) * size))
        # What is known before: bytes, which follow the cost only roughly.
        return [InputImage(at, f"{at}", f"0/{at}", at, int(self.costs[at] * (80 + at * 37 % 60)), 1) for at in numbers]

    def bytes_of(self, shard: int) -> int:
        return sum(image.size for image in self.images_of(shard))

    def cost(self, shard: int) -> float:
        return sum(self.costs[image.index] for image in self.images_of(shard))

    def makespan(self) -> float:
        shards = range(-(-len(self.costs) // default_shard_size(len(self.costs))))
        self.plan = Scheduler(sort_largest_first(shards, self.bytes_of), self.images_of)
        self.queues: dict[str, list[int]] = {f"w{number}": [] for number in range(self.workers)}
        self.busy: dict[str, int] = {}
        self.events: list[tuple[float, str, str]] = []
        for worker in self.queues:
            self.plan.add_worker(worker)
        for worker in self.queues:
            self.feed(worker, 0)
        if self.kill_at is not None:
            heapq.heappush(self.events, (self.kill_at, "kill", "w0"))
        now = 0.0
        while self.plan.remaining:
            now, what, worker = heapq.heappop(self.events)
            self.happen(now, what, worker)
        return now

    def happen(self, now: float, what: str, worker: str) -> None:
        if what == "kill":
            self.plan.record_loss(worker, self.busy.pop(worker), [], "killed")
            del self.queues[worker]
            heapq.heappush(self.events, (now + self.restart, "start", "w0-again"))
        elif what == "start":
            self.queues[worker] = []
            self.plan.add_worker(worker)
        elif worker in self.queues:
            shard = self.busy.pop(worker)
            self.done.append(shard)
            assert self.plan.mark_done(shard)
        for one in self.queues:
            self.feed(one, now)

    def feed(self, worker: str, now: float) -> None:
        while (order := self.plan.assign_next(worker)) is not None:
            self.queues[worker].append(order.number)
        if worker not in self.busy and not self.queues[worker]:
            self.take_back(worker)
        if worker not in self.busy and self.queues[worker]:
            self.busy[worker] = self.queues[worker].pop(0)
            heapq.heappush(self.events, (now + self.cost(self.busy[worker]), "done", worker))

    def take_back(self, worker: str) -> None:
        for other, queue in self.queues.items():
            if queue:
                self.plan.take_back(other, queue.pop())
                order = self.plan.assign_next(worker)
                assert order is not None
                self.queues[worker].append(order.number)
                return


@pytest.mark.parametrize("seed", range(5))
def test_eight_workers_are_within_a_tenth_of_the_ideal(seed: int) -> None:
    costs = uneven_costs(IMAGES, mean=200, seed=seed)
    assert max(costs) > 6 * min(200, sorted(costs)[IMAGES // 2]), "the costs are uneven"
    world = World(costs, WORKERS)
    assert world.makespan() <= 1.1 * sum(costs) / WORKERS
    assert sorted(world.done) == list(range(len(world.done)))


@pytest.mark.parametrize("seed", range(5))
def test_one_of_eight_killed_costs_what_it_had_in_hand_and_no_more(seed: int) -> None:
    costs = uneven_costs(IMAGES, mean=200, seed=seed)
    ideal = sum(costs) / WORKERS
    world = World(costs, WORKERS, kill_at=ideal / 2, restart=ideal / 20)
    assert world.makespan() <= 1.1 * ideal + ideal / 20
    assert sorted(world.done) == list(range(len(world.done)))


def test_two_workers_and_few_shards_are_shared_evenly() -> None:
    assert World([100.0] * 16, 4).makespan() == 400


def test_a_shard_that_waits_behind_a_long_one_is_taken_over() -> None:
    costs = [10.0] * 8 + [1000.0, *[10.0] * 7]
    assert World(costs, 2).makespan() == 1000
