"""Dispatch over slots that come and go: GPUs that are lost, leased by others, or free again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch import dispatcher as dispatch
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.slots import OwnedSlots
from orchestrator.errors import Interrupted, MachineError
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import Exit
from orchestrator.system.display import SilentDisplay
from tests.unit.dispatch.intake_samples import TrustingIntake
from tests.unit.dispatch.test_dispatcher import FakeWorker, Fleet, images_of, make, obedient

DEVICES = ("cuda:GPU-0", "cuda:GPU-1", "cuda:GPU-2")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path)
    paths.jobs.mkdir()
    return paths


def slot_of(worker: FakeWorker) -> int:
    return int(worker.name[1 : worker.name.index("-")])


def lost_device(worker: FakeWorker) -> Exit:
    worker.emit("failure", category="device", message="it fell off the bus", hint=None)
    return Exit(4)


def test_a_device_that_is_lost_is_given_up_and_said_and_the_others_go_on(paths: RunPaths) -> None:
    """Slot 1 works once, dies in a shard, and its later workers cannot start."""
    second = threading.Event()

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if slot_of(worker) != 1:
            second.wait(5)
            time.sleep(0.02)
            return None
        if not worker.predicted:
            return None
        second.set()
        return lost_device(worker)

    class Losing(Fleet):
        def start(self, slot: int, name: str, folder: Path) -> FakeWorker:
            if second.is_set() and slot == 1:
                return FailsToStart(name, folder, self.script)
            return super().start(slot, name, folder)

    fleet = Losing(script)
    result = make(paths, fleet, 40).run(OwnedSlots(3, DEVICES), 160, 0)
    assert fleet.predicted == list(range(40))
    assert result.retired == ("cuda:GPU-1: it fell off the bus",)


class FailsToStart(FakeWorker):
    """A worker that finds no device."""

    def _work(self) -> None:
        self._exit = lost_device(self)
        self._lines.put(None)


def test_the_last_device_lost_ends_the_run_with_what_was_wrong(paths: RunPaths) -> None:
    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        return lost_device(worker)

    fleet = Fleet(script)
    with pytest.raises(MachineError, match="it fell off the bus"):
        make(paths, fleet, 40).run(OwnedSlots(3, DEVICES), 160, 0)
    assert len(fleet.workers) == 3


def test_a_device_the_engine_refuses_again_and_again_is_given_up(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "REPLACE_SECONDS", 0.1)
    monkeypatch.setattr(dispatch, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(dispatch, "SLOT_CHECK_SECONDS", 0.02)
    over = threading.Event()

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        over.wait(10)
        return None

    fleet = Fleet(script)

    def start(slot: int, name: str, folder: Path) -> FakeWorker:
        if slot == 1:
            raise MachineError("the engine knows no such device")
        return fleet.start(slot, name, folder)

    class Display(SilentDisplay):
        def say(self, message: str) -> None:
            if "is no longer used" in message:
                over.set()

    dispatcher = Dispatcher(paths, start, Display(), range(9), images_of, TrustingIntake())
    result = dispatcher.run(OwnedSlots(2, DEVICES), 36, 0)
    assert result.retired == ("cuda:GPU-1: the engine knows no such device",)
    assert fleet.predicted == list(range(9))


class Contested(OwnedSlots):
    """Slots that others have at first."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, DEVICES)
        self.allowed = 0

    def reserve(self, limit: int) -> list[int]:
        taken = super().reserve(min(limit, self.allowed))
        self.allowed -= len(taken)
        return taken


def test_a_run_waits_for_a_place_and_takes_more_as_they_get_free(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "SLOT_CHECK_SECONDS", 0.02)
    slots = Contested(3)
    looked = threading.Event()

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if slot_of(worker) == 0 and order["shard"] == 0:
            slots.allowed = 1
            while len(fleet.workers) < 2:
                time.sleep(0.005)
        return None

    fleet = Fleet(script)
    dispatcher = make(paths, fleet, 12)

    def allow() -> None:
        slots.allowed = 1
        looked.set()

    threading.Timer(0.2, allow).start()
    dispatcher.run(slots, 48, 0)
    assert looked.is_set()
    assert [slot_of(worker) for worker in fleet.workers] == [0, 1]
    assert fleet.predicted == list(range(12))


def test_waiting_for_a_place_can_be_interrupted(paths: RunPaths) -> None:
    fleet = Fleet(obedient)
    dispatcher = make(paths, fleet, 3)
    threading.Timer(0.1, dispatcher.interrupt).start()
    with pytest.raises(Interrupted):
        dispatcher.run(Contested(2), 12, 0)
    assert fleet.workers == []


def test_a_worker_without_shards_gives_its_place_back_while_others_work(paths: RunPaths) -> None:
    """So that the next run has a GPU as soon as this one has no use for it."""
    given_back: list[int] = []

    class Watched(OwnedSlots):
        def release(self, slot: int) -> None:
            given_back.append(slot)
            super().release(slot)

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if order["shard"] == 0:
            deadline = time.monotonic() + 10
            while 1 not in given_back and time.monotonic() < deadline:
                time.sleep(0.005)
        return None

    fleet = Fleet(script)
    make(paths, fleet, 2).run(Watched(2), 8, 0)
    assert given_back == [1, 0]
    assert fleet.predicted == [0, 1]


def test_a_shard_waiting_behind_a_long_one_goes_to_an_idle_worker(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "QUEUED_SECONDS", 0.05)

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        deadline = time.monotonic() + 10
        while order["shard"] == 0 and len(fleet.predicted) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        return None

    fleet = Fleet(script)
    make(paths, fleet, 6).run(OwnedSlots(2), 24, 0)
    assert fleet.predicted == list(range(6))
    assert [order["shard"] for order in fleet.workers[0].predicted] == [0]


def test_eight_workers_predict_250_shards_though_one_is_killed(paths: RunPaths) -> None:
    killed = threading.Event()

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if order["shard"] == 100 and not killed.is_set():
            killed.set()
            return Exit(137)
        time.sleep(order["shard"] % 7 / 1000)
        return None

    fleet = Fleet(script)
    result = make(paths, fleet, 250).run(OwnedSlots(8), 1000, 0)
    assert (sorted(set(fleet.predicted)), result.lost_workers, result.retired) == (list(range(250)), 1, ())
