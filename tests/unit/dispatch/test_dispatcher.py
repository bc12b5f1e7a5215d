"""Dispatch with workers made up in this process: they read the real queue folder and write real events."""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch import dispatcher as dispatch
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.shard_intake import Images
from orchestrator.dispatch.slots import OwnedSlots
from orchestrator.dispatch.worker_failures import MOST_IDLE_EXITS
from orchestrator.errors import Interrupted, MachineError, RunError
from orchestrator.inputs.collect import InputImage
from orchestrator.paths import GuestFolder, RunPaths
from orchestrator.predictions.shard_check import ShardContent, ShardFault
from orchestrator.runtimes.base import Exit
from orchestrator.system.display import SilentDisplay
from tests.unit.dispatch.intake_samples import TrustingIntake

Script = Callable[["FakeWorker", dict[str, Any]], Exit | None]
IMAGES_PER_SHARD = 4


class FakeWorker:
    """Predicts at once; `script` may end it at a shard by giving an Exit."""

    def __init__(self, name: str, folder: Path, script: Script, *, repeat: bool = False) -> None:
        self.name, self.folder, self._script, self._repeat = name, folder / "queue", script, repeat
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._exit: Exit | None = None
        self._sequence = 0
        self.terminated = threading.Event()
        self.predicted: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def emit(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        line = json.dumps({"event": event, "seq": self._sequence, "time": 0, **fields}).encode()
        for _ in range(1 + self._repeat):
            self._lines.put(line)

    def _work(self) -> None:
        self.emit("ready", device="cpu", batch_size=1, seconds=0, versions={"numpy": "0"})
        seen: set[str] = set()
        while self._exit is None:
            waiting = sorted(path for path in self.folder.glob("*.json") if path.name not in seen)
            if waiting:
                seen.add(waiting[0].name)
                self._exit = self._shard(json.loads(waiting[0].read_text()))
            elif (self.folder / "end").exists():
                self._exit = Exit(0)
            elif self.terminated.is_set():
                self._exit = Exit(143)
            time.sleep(0.001)
        self._lines.put(None)

    def _shard(self, order: dict[str, Any]) -> Exit | None:
        total = len(order["images"])
        self.emit("shard_started", shard=order["shard"], images=total, reused=0)
        ended = self._script(self, order)
        if ended is None:
            self.predicted.append(order)
            self.emit("shard_done", shard=order["shard"], images=total, failed=0, instances=0, seconds=0)
        return ended

    def lines(self) -> Iterator[bytes]:
        while (line := self._lines.get()) is not None:
            yield line

    def wait(self) -> Exit:
        self._thread.join()
        assert self._exit is not None
        return self._exit

    def terminate(self) -> None:
        self.terminated.set()

    def kill(self) -> None:
        self._exit = self._exit or Exit(137)

    def close(self) -> None:
        self.kill()


class Fleet:
    """Starts fake workers and remembers them."""

    def __init__(self, script: Script, **options: Any) -> None:
        self.script, self.options = script, options
        self.workers: list[FakeWorker] = []

    def start(self, slot: int, name: str, folder: Path) -> FakeWorker:
        self.workers.append(FakeWorker(name, folder, self.script, **self.options))
        return self.workers[-1]

    @property
    def predicted(self) -> list[int]:
        return sorted(order["shard"] for worker in self.workers for order in worker.predicted)


def images_of(shard: int) -> Sequence[InputImage]:
    first = shard * IMAGES_PER_SHARD
    return [InputImage(i, f"{i}.png", f"0/{i}.png", i + 1, 1, 1) for i in range(first, first + IMAGES_PER_SHARD)]


def obedient(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
    return None


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path)
    paths.jobs.mkdir()
    return paths


def make(paths: RunPaths, fleet: Fleet, shards: int) -> Dispatcher:
    return Dispatcher(paths, fleet.start, SilentDisplay(), range(shards), images_of, TrustingIntake())


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_every_shard_is_predicted_once(paths: RunPaths, workers: int) -> None:
    fleet = Fleet(obedient)
    make(paths, fleet, 10).run(OwnedSlots(workers), 40, 0)
    assert fleet.predicted == list(range(10))
    assert len(fleet.workers) == min(workers, 10)
    assert paths.events.read_text().count('"ready"') == len(fleet.workers)


def test_workers_at_work_see_that_the_host_lives(paths: RunPaths) -> None:
    """A worker leaves its job when `alive` is not touched for a minute."""
    touched: list[bool] = []

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        alive = worker.folder / "alive"
        os.utime(alive, (1, 1))
        deadline = time.monotonic() + 10
        while alive.stat().st_mtime == 1 and time.monotonic() < deadline:
            worker.emit("heartbeat", rss_mb=1)
            time.sleep(0.01)
        touched.append(alive.stat().st_mtime > 1)
        return None

    make(paths, Fleet(script), 3).run(OwnedSlots(1), 12, 0)
    assert touched == [True] * 3


def test_events_that_come_twice_count_once(paths: RunPaths) -> None:
    make(paths, Fleet(obedient, repeat=True), 3).run(OwnedSlots(1), 12, 0)
    events = [json.loads(line) for line in paths.events.read_text().splitlines()]
    assert [event["shard"] for event in events if event["event"] == "shard_done"] == [0, 1, 2]


def test_a_lost_workers_shards_go_to_another(paths: RunPaths) -> None:
    died: list[str] = []

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if order["shard"] == 2 and not died:
            died.append(worker.name)
            return Exit(137)
        return None

    fleet = Fleet(script)
    result = make(paths, fleet, 6).run(OwnedSlots(2), 24, 0)
    assert fleet.predicted == list(range(6))
    assert result.lost_workers == 1
    assert all(died[0] != worker.name for worker in fleet.workers if 2 in [one["shard"] for one in worker.predicted])


def test_an_image_that_kills_workers_is_given_up_alone(paths: RunPaths) -> None:
    """The culprit is found by announcing batches, then by predicting it alone."""

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        indices = [one["index"] for one in order["images"] if str(one["index"]) not in order["skip"]]
        together = [index for index in indices if index not in order["alone"]]
        batches = [together[:2], together[2:], *([index] for index in order["alone"] if index in indices)]
        for batch in filter(None, batches):
            if order["careful"]:
                worker.emit("batch", shard=order["shard"], indices=batch)
            if 5 in batch:
                return Exit(139)
        return None

    fleet = Fleet(script)
    make(paths, fleet, 3).run(OwnedSlots(1), 12, 0)
    assert fleet.predicted == [0, 1, 2]
    skips = {order["shard"]: order["skip"] for worker in fleet.workers for order in worker.predicted}
    assert set(skips[1]) == {"5"}
    assert "segmentation fault" in skips[1]["5"]
    assert skips[0] == skips[2] == {}


def test_a_shard_that_kills_without_a_culprit_ends_the_run(paths: RunPaths) -> None:
    fleet = Fleet(lambda worker, order: Exit(137, out_of_memory=True) if order["shard"] == 1 else None)
    with pytest.raises(RunError, match="shard 1 cost too many workers") as caught:
        make(paths, fleet, 3).run(OwnedSlots(1), 12, 0)
    assert caught.value.why is not None
    assert "out of memory" in caught.value.why


@pytest.mark.parametrize(
    ("category", "code", "kind"), [("load", 3, RunError), ("device", 4, MachineError), ("output", 5, RunError)]
)
def test_a_failure_another_worker_would_meet_ends_the_run(
    paths: RunPaths, category: str, code: int, kind: type[Exception]
) -> None:
    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        worker.emit("failure", category=category, message="the reason", hint="do this")
        return Exit(code)

    fleet = Fleet(script)
    with pytest.raises(kind, match="the reason") as caught:
        make(paths, fleet, 3).run(OwnedSlots(1), 12, 0)
    assert vars(caught.value)["hint"] == "do this"
    assert len(fleet.workers) == 1


@pytest.mark.parametrize("slots", [2, 1])
def test_a_second_worker_without_memory_to_load_costs_its_slot_alone(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """The last slot is never given up: there the run ends, with the next step."""
    work, last = FakeWorker._work, slots - 1

    def load(worker: FakeWorker) -> None:
        if worker.name.startswith(f"w{last}-"):
            worker.emit("failure", category="memory", message="CUDA out of memory", hint=None)
            worker._exit = Exit(3)
            worker._lines.put(None)
        else:
            work(worker)

    monkeypatch.setattr(FakeWorker, "_work", load)
    fleet = Fleet(lambda worker, order: time.sleep(0.05))
    if last == 0:
        with pytest.raises(MachineError, match="out of memory") as caught:
            make(paths, fleet, 6).run(OwnedSlots(slots), 24, 0)
        assert "--workers" in str(caught.value.hint)
        return
    result = make(paths, fleet, 6).run(OwnedSlots(slots), 24, 0)
    assert (fleet.predicted, len(fleet.workers)) == ([0, 1, 2, 3, 4, 5], 2)
    assert result.retired == ("cpu: CUDA out of memory",)


def test_workers_that_end_before_they_begin_are_not_replaced_for_ever(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_at_once(worker: FakeWorker) -> None:
        worker._exit = Exit(137)
        worker._lines.put(None)

    monkeypatch.setattr(FakeWorker, "_work", end_at_once)
    fleet = Fleet(obedient)
    with pytest.raises(RunError, match="before they begin"):
        make(paths, fleet, 3).run(OwnedSlots(1), 12, 0)
    assert len(fleet.workers) == MOST_IDLE_EXITS


@pytest.mark.parametrize("patience", [30.0, 0.0])
def test_an_engine_that_is_away_for_a_while_is_waited_for(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(dispatch, "REPLACE_SECONDS", patience)
    monkeypatch.setattr(dispatch, "RETRY_SECONDS", 0.05)
    fleet = Fleet(lambda worker, order: Exit(143) if len(fleet.workers) == 1 else None)
    refusals = 3

    def start(slot: int, name: str, folder: Path) -> FakeWorker:
        nonlocal refusals
        if fleet.workers and refusals:
            refusals -= 1
            raise MachineError("the engine is away")
        return fleet.start(slot, name, folder)

    dispatcher = Dispatcher(paths, start, SilentDisplay(), range(3), images_of, TrustingIntake())
    if patience:
        assert dispatcher.run(OwnedSlots(1), 12, 0).lost_workers == 1
        assert (fleet.predicted, refusals) == ([0, 1, 2], 0)
    else:
        with pytest.raises(MachineError, match="the engine is away") as caught:
            dispatcher.run(OwnedSlots(1), 12, 0)
        assert "the same command again" in str(caught.value.hint)


def test_a_silent_worker_is_replaced(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SILENCE_SECONDS", 0.3)
    hung = threading.Event()

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if not hung.is_set():
            hung.set()
            while worker._exit is None:
                time.sleep(0.01)
            return worker._exit
        return None

    fleet = Fleet(script)
    result = make(paths, fleet, 3).run(OwnedSlots(1), 12, 0)
    assert (result.lost_workers, fleet.predicted) == (1, [0, 1, 2])


def test_an_interrupt_may_come_at_any_moment(paths: RunPaths) -> None:
    """A signal's handler runs inside whatever the main thread is doing, its reading of the queue included."""
    dispatcher = make(paths, Fleet(lambda worker, order: time.sleep(1)), 1)
    before = signal.signal(signal.SIGALRM, lambda *_: dispatcher.interrupt())
    faulthandler.dump_traceback_later(60, exit=True)  # a deadlock of the main thread cannot be reported otherwise
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        with pytest.raises(Interrupted):
            dispatcher.run(OwnedSlots(1), IMAGES_PER_SHARD, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_stops_cleanly_and_a_second_one_at_once(paths: RunPaths, presses: int) -> None:
    begun = threading.Event()

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        begun.set()
        if presses == 1:
            worker.terminated.wait()
            return Exit(143)
        while worker._exit is None:
            time.sleep(0.01)
        return worker._exit

    fleet = Fleet(script)
    dispatcher = make(paths, fleet, 5)

    def press() -> None:
        begun.wait()
        for _ in range(presses):
            dispatcher.interrupt()

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(Interrupted):
        dispatcher.run(OwnedSlots(1), 20, 0)
    assert fleet.workers[0].terminated.is_set()
    assert len(fleet.workers) == 1


def test_images_of_shards_under_way_and_failed_ones_are_shown(paths: RunPaths) -> None:
    shown: list[tuple[int, int, dict[str, str]]] = []

    class Display(SilentDisplay):
        def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
            shown.append((done, failed, workers))

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        worker.emit("image_failed", shard=order["shard"], index=order["images"][0]["index"], error="no image")
        worker.emit("progress", shard=order["shard"], done=2, total=4)
        deadline = time.monotonic() + 10
        while (7, 1, {"w0": "shard 0"}) not in shown and time.monotonic() < deadline:
            time.sleep(0.005)
        return None

    fleet = Fleet(script)
    dispatcher = Dispatcher(paths, fleet.start, Display(), range(2), images_of, TrustingIntake())
    dispatcher.run(OwnedSlots(1), 13, 5)
    assert (7, 1, {"w0": "shard 0"}) in shown
    assert shown[-1][:2] == (13, 2)


def test_done_shards_leave_the_queue_and_progress_is_recorded_now_and_then(paths: RunPaths) -> None:
    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        for done in range(50):
            worker.emit("progress", shard=order["shard"], done=done, total=50)
        return None

    make(paths, Fleet(script), 6).run(OwnedSlots(2), 24, 0)
    assert list(paths.jobs.glob("*/queue/*.json")) == []
    assert paths.events.read_text().count('"progress"') == 2, "the first of each worker"


# --- results that are refused, and events that nothing may be believed of


def dispatch_with(paths: RunPaths, fleet: Fleet, shards: int, intake: TrustingIntake, slots: int = 1) -> list[str]:
    """Run to the end; the messages shown."""
    shown: list[str] = []

    class Display(SilentDisplay):
        def say(self, message: str) -> None:
            shown.append(message)

    dispatcher = Dispatcher(paths, fleet.start, Display(), range(shards), images_of, intake)
    dispatcher.run(OwnedSlots(slots), shards * IMAGES_PER_SHARD, 0)
    return shown


def test_an_image_whose_result_is_refused_twice_is_given_up_alone(paths: RunPaths) -> None:
    fleet, at_fault = Fleet(obedient), ShardFault("boxes: is not finite", {2: "boxes: is not finite"})
    intake = TrustingIntake({1: [at_fault, at_fault]})
    shown = dispatch_with(paths, fleet, 3, intake)
    orders = [order for order in fleet.workers[0].predicted if order["shard"] == 1]
    assert [order["careful"] for order in orders] == [False, True, True]
    assert [list(order["skip"]) for order in orders] == [[], [], ["6"]]
    assert "boxes: is not finite" in orders[-1]["skip"]["6"]
    assert (intake.failed, len(fleet.workers)) == ({}, 1)
    assert sum("is refused" in line for line in shown) == 2
    refused = [line for line in map(json.loads, paths.events.read_text().splitlines()) if "category" in line]
    assert [(line["event"], line["category"], line["shard"]) for line in refused] == [
        ("shard_refused", "output", 1)
    ] * 2
    assert list(paths.jobs.glob("*/queue/*.json")) == []


def test_a_fault_of_no_image_costs_the_shard_after_one_repeat(paths: RunPaths) -> None:
    fault = ShardFault("its meta is not that of this shard")
    intake = TrustingIntake({0: [fault] * 9})
    fleet = Fleet(obedient)
    dispatch_with(paths, fleet, 3, intake, slots=2)
    assert list(intake.failed) == [0]
    assert fault.reason in intake.failed[0]
    assert fleet.predicted == [0, 0, 1, 2]


def test_a_worker_that_spoils_another_image_each_time_costs_the_shard_in_the_end(paths: RunPaths) -> None:
    faults = [ShardFault("odd", {position: "odd"}) for position in range(IMAGES_PER_SHARD)]
    intake = TrustingIntake({0: faults * 3})
    dispatch_with(paths, Fleet(obedient), 2, intake)
    assert list(intake.failed) == [0]


def test_a_disk_that_is_full_ends_the_run_with_that_reason(paths: RunPaths) -> None:
    class Full(TrustingIntake):
        def take(self, out: GuestFolder, number: int, images: Images) -> ShardContent | None:
            raise RunError("cannot write 00000.npz", why="No space left on device")

    with pytest.raises(RunError, match="cannot write"):
        dispatch_with(paths, Fleet(obedient), 2, Full())


ODD = (
    b"",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"{}",
    b"[" * 60_000,
    b'{"event": "shard_done", "seq": 1e400}',
    b'{"event": "shard_done"}',
    b'{"event": "shard_done", "seq": "1", "shard": 0}',
    b'{"event": "shard_done", "seq": null, "shard": 0}',
    b'{"event": "shard_done", "seq": 1, "shard": 99}',
    b'{"event": "shard_done", "seq": 1, "shard": -1}',
    b'{"event": "shard_done", "seq": 1, "shard": true}',
    b'{"event": "progress", "seq": 9007199254740991, "shard": 0, "done": 999999999}',
    b'{"event": "progress", "seq": 123456789012345678901234567890, "shard": 0, "done": 1}',
    b'{"event": "failure", "seq": 1}',
    b'{"event": "ready", "seq": 1, "versions": 3}',
    b'{"event": "ready", "seq": 99}',
    b'{"event": "notice", "seq": 1, "message": {"a": 1}}',
    b'{"event": "batch", "seq": 1, "shard": 0, "indices": [77, "x", []]}',
    b'{"event": "exit", "seq": 1, "code": 0}',
    b'{"event": "invented", "seq": 1}',
    b'{"event": ["ready"], "seq": 1}',
    b'{"event": "heartbeat", "seq": 1, "rss_mb": NaN}',
    b'{"event": "notice", "seq": 1, "message": "' + b"x" * 70_000 + b'"}',
)


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_an_odd_line_neither_ends_the_run_nor_mutes_the_worker(paths: RunPaths, line: bytes) -> None:
    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        worker._lines.put(line)
        return None

    fleet = Fleet(script)
    result = make(paths, fleet, 4).run(OwnedSlots(2), 16, 0)
    assert (fleet.predicted, result.lost_workers) == ([0, 1, 2, 3], 0)
    events = [json.loads(one) for one in paths.events.read_text().splitlines()]
    assert sorted(one["shard"] for one in events if one["event"] == "shard_done") == [0, 1, 2, 3]


def test_a_shard_counts_for_the_worker_that_has_it_alone(paths: RunPaths) -> None:
    """A worker that reports the shards of others as done has no influence on them."""

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        for shard in range(8):
            if shard != order["shard"]:
                worker.emit("shard_done", shard=shard, images=4, failed=0, instances=0, seconds=0)
        return None

    fleet = Fleet(script)
    make(paths, fleet, 4).run(OwnedSlots(4), 16, 0)
    assert fleet.predicted == [0, 1, 2, 3]


def test_a_worker_that_fills_its_folder_is_killed_and_the_reason_names_the_limit(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "SIZE_CHECK_SECONDS", 0.0)
    display, filled = SilentDisplay(), threading.Event()
    said: list[str] = []
    monkeypatch.setattr(display, "say", said.append)

    def fill_once(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        if order["shard"] == 1 and not filled.is_set():
            filled.set()
            (worker.folder.parent / "out").mkdir()
            (worker.folder.parent / "out" / "filling").write_bytes(b"x" * 3_000_000)
            while worker._exit is None:
                time.sleep(0.01)
        return worker._exit

    fleet = Fleet(fill_once)
    intake = TrustingIntake()
    dispatcher = Dispatcher(paths, fleet.start, display, range(3), images_of, intake, out_size=2 << 20)
    assert dispatcher.run(OwnedSlots(1), 12, 0).lost_workers == 1
    assert fleet.predicted == [0, 1, 2]
    reason = "exit 137, its out folder holds more than 2 MiB, --out-size raises the limit"
    assert any(f"was lost ({reason})" in line for line in said)


def test_events_of_failed_images_are_bounded(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MOST_RECORDED_FAILURES", 5)
    shown: list[int] = []

    class Display(SilentDisplay):
        def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
            shown.append(failed)

    def script(worker: FakeWorker, order: dict[str, Any]) -> Exit | None:
        for image in order["images"]:
            worker.emit("image_failed", shard=order["shard"], index=image["index"], error="x" * 2000)
        return None

    fleet = Fleet(script)
    dispatcher = Dispatcher(paths, fleet.start, Display(), range(4), images_of, TrustingIntake())
    dispatcher.run(OwnedSlots(1), 16, 0)
    recorded = [one for one in map(json.loads, paths.events.read_text().splitlines()) if one["event"] == "image_failed"]
    assert [len(one["error"]) for one in recorded] == [200] * 5
    assert shown[-1] == 16, "they are counted all the same"


def test_nothing_is_kept_of_shards_that_are_done(paths: RunPaths) -> None:
    kept: list[int] = []

    class Counting(Dispatcher):
        def _show_progress(self) -> None:
            kept.extend(len(running.queued_at) for running in self._running.values())

    fleet = Fleet(obedient)
    Counting(paths, fleet.start, SilentDisplay(), range(40), images_of, TrustingIntake()).run(OwnedSlots(1), 160, 0)
    assert max(kept) <= 3
