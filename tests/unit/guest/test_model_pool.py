"""Which model process gets a job of a warm worker, and which idle ones are unloaded for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from orch_runner.serving.model_pool import MOST_SIZES, Assignment, ModelPool

START = Assignment(evict=[])
"""Start a process; nothing has to be unloaded for it."""


@dataclass
class FakeProcess:
    """What the pool reads of a process."""

    load_key: str
    rss_mb: int = 0
    idle_since: float = 0.0
    private: bool = False
    is_loaded: bool = True
    is_usable: bool = True
    jobs: set[str] = field(default_factory=set)
    gpu_mb: int | None = None

    @property
    def is_idle(self) -> bool:
        return self.is_loaded and not self.jobs


def make_pool(limit: int, *processes: FakeProcess) -> Any:
    pool: Any = ModelPool(limit)
    for process in processes:
        pool.processes.append(process)
        pool.record_memory(process, {"rss_mb": process.rss_mb, "gpu_mb": process.gpu_mb})
    return pool


def test_jobs_of_one_key_share_a_process_and_careful_ones_do_not() -> None:
    shared = FakeProcess("a", 100, jobs={"1"})
    pool = make_pool(1000, FakeProcess("b", 100), shared)
    assert pool.assign("a", False).process is shared
    assert pool.assign("a", True) == START
    shared.is_usable = False
    assert pool.assign("a", False) == START, "it may get no further jobs"


def test_one_careful_job_at_a_time() -> None:
    pool = make_pool(1000, FakeProcess("a", 100, private=True))
    assert pool.assign("b", True).wait_reason == "another job's careful shards"
    assert pool.assign("a", False) == START, "a careful job's process is not shared"


def test_nothing_is_started_while_another_model_loads() -> None:
    loading = FakeProcess("a", is_loaded=False)
    pool = make_pool(1000, loading)
    assert pool.assign("b", False).wait_reason == "another model's loading"
    assert pool.assign("a", False).process is loading
    loading.is_usable = False
    assert pool.assign("b", False) == START


def test_memory_is_the_sum_of_what_processes_report() -> None:
    pool = make_pool(1000, first := FakeProcess("a", 100), FakeProcess("b", 250))
    assert pool.rss_mb == 350
    pool.record_memory(first, {"rss_mb": 120, "gpu_mb": 64})
    assert (pool.rss_mb, first.gpu_mb) == (370, 64)
    pool.record_memory(first, {"rss_mb": None, "gpu_mb": None})
    assert (pool.rss_mb, first.gpu_mb) == (250, None)
    assert str(pool) == "1000 MB for all models"


@pytest.mark.parametrize(
    ("limit", "evicted"),
    [(900, []), (800, []), (799, ["old"]), (700, ["old"]), (699, ["old", "new"]), (500, ["old", "new"])],
)
def test_the_longest_idle_are_unloaded_until_a_known_model_fits(limit: int, evicted: list[str]) -> None:
    """Three models of 100, 200 and 300 MB are loaded; the wanted one took 200 MB when it was loaded before."""
    pool = make_pool(limit, FakeProcess("new", 200, idle_since=2.0), FakeProcess("busy", 300, jobs={"1"}),
                     FakeProcess("old", 100, idle_since=1.0), gone := FakeProcess("wanted", 200))  # fmt: skip
    pool.processes.remove(gone)
    assert [process.load_key for process in pool.assign("wanted", False).evict] == evicted


def test_a_job_waits_where_busy_models_take_the_memory() -> None:
    pool = make_pool(499, FakeProcess("busy", 300, jobs={"1"}), gone := FakeProcess("wanted", 200))
    pool.processes.remove(gone)
    assert pool.assign("wanted", False).wait_reason == "memory: all loaded models are busy"
    pool.limit_mb = 500
    assert pool.assign("wanted", False) == START


def test_an_unknown_model_is_taken_to_be_as_large_as_the_largest() -> None:
    pool = make_pool(599, idle := FakeProcess("a", 300))
    assert pool.assign("new", False).evict == [idle]
    pool.limit_mb = 600
    assert pool.assign("new", False) == START
    assert make_pool(1).assign("new", False) == START, "the only model is loaded, whatever the limit"


def test_sizes_of_models_are_remembered_up_to_a_number() -> None:
    """A service for months sees many settings, each of which is a model of its own."""
    pool = make_pool(1000)
    for number in range(3 * MOST_SIZES):
        process = FakeProcess(f"key{number}", 10)
        pool.record_memory(process, {"rss_mb": 10, "gpu_mb": None})
    assert len(pool._sizes) <= MOST_SIZES
