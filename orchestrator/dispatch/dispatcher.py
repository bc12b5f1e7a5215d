"""Handing shards to workers, watching them, replacing those that are lost, and stopping when the user says so."""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from orchestrator.dispatch.scheduler import ImagesOf, Schedule
from orchestrator.dispatch.slots import OwnPlaces, Places
from orchestrator.dispatch.worker_failures import GOES_ON, Loss, Losses
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import Exit, Worker
from orchestrator.runtimes.guest_contract import ALIVE_EVERY, ALIVE_NAME, END_NAME, QUEUE_NAME
from orchestrator.system.display import Display
from orchestrator.system.files import write_json
from orchestrator.system.json_lines import parse_object

SILENCE_SECONDS = 120.0
"""A worker that says nothing for so long, not even a heartbeat, is taken for hung."""
PATIENCE_SECONDS = 90.0
"""So long a lost worker is tried to be replaced: an engine that restarts is away for a while."""
AGAIN_SECONDS = 2.0
RECORDED_EVERY = 10.0
"""Of a worker's progress so much is recorded, or a day of 64 workers would be gigabytes on a network file system."""
GRACE_SECONDS = 30.0
"""Time for the image at hand after the first Ctrl-C, before workers are killed."""
LOOK_EVERY = 1.0
"""Seconds between two looks whether there is a further place, such as a GPU that another run gave back."""

WAITED_SECONDS = 1.0
"""A shard that waited so long in a worker's queue goes to one that has nothing to do."""

StartWorker = Callable[[int, str, Path], Worker]
"""Start the worker of that place and name whose queue is in that job folder."""


@dataclass(frozen=True)
class Dispatched:
    """What the workers said of themselves in the end."""

    notices: tuple[str, ...]
    lost_workers: int
    seconds: float
    retired: tuple[str, ...] = ()
    """Devices that were given up, each with the reason."""


@dataclass
class _Replacing:
    """A place without a worker: when to try again, and when to give up."""

    due: float
    until: float


@dataclass
class _Live:
    """A worker under way, as its events tell it."""

    worker: Worker
    folder: Path
    place: int
    heard: float
    recorded: float = -RECORDED_EVERY
    sequence: int = 0
    begun: dict[int, int] = field(default_factory=dict)
    """Shards begun and not done, in that order, with the images done in each."""
    announced: tuple[int, list[int]] | None = None
    """Shard and images of the last batch announced: careful shards only."""
    given: dict[int, float] = field(default_factory=dict)
    """When each of its shards was put into its queue."""
    shards_done: int = 0
    state: str = "starting"
    failure: dict[str, Any] | None = None
    killed_as_silent: bool = False
    ended: bool = False
    """Told to leave, as no shard is left for it."""


class Dispatcher:
    """One run's dispatch. All decisions are made in one thread, which reads one queue of what happened."""

    def __init__(
        self,
        paths: RunPaths,
        start: StartWorker,
        display: Display,
        shards: Sequence[int] | Schedule,
        images_of: ImagesOf,
    ) -> None:
        self._paths, self._start, self._display = paths, start, display
        self._schedule = shards if isinstance(shards, Schedule) else Schedule(shards, images_of)
        self._images_of = images_of
        # A SimpleQueue's put may interrupt its own thread's get, as a signal handler does; a Queue's would wait for
        # the lock which that get holds, for ever.
        self._happened: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        self._live: dict[str, _Live] = {}
        self._token = secrets.token_hex(3)
        self._starts = 0
        self._places: Places = OwnPlaces(0)
        self._look_at = 0.0
        self._losses = Losses()
        self._retired: list[str] = []
        self._replacing: dict[int, _Replacing] = {}
        self._lost = 0
        self._interrupts = 0
        self._done = self._failed = 0
        self._notices: list[str] = []
        self._kill_at: float | None = None
        self._flushed = 0.0

    def interrupt(self) -> None:
        """Once: stop cleanly. Twice: now. Safe to call from a signal handler."""
        self._happened.put(("interrupt", "", None))

    def run(self, places: Places, total: int, already: int) -> Dispatched:
        """Predict all shards. Raises Interrupted, RunError, MachineError; finished shards stay on disk."""
        started = time.monotonic()
        self._done, self._places = already, places
        try:
            with self._display.images(total, already), self._paths.events.open("a", encoding="utf-8") as events:
                self._take_places()
                while self._live or self._replacing or (self._schedule.remaining and not self._interrupts):
                    self._step(events)
        finally:
            self._abandon()
        if self._interrupts:
            raise Interrupted("stopped")
        return Dispatched(tuple(self._notices), self._lost, time.monotonic() - started, tuple(self._retired))

    def _step(self, events: IO[str]) -> None:
        with suppress(queue.Empty):
            kind, name, what = self._happened.get(timeout=ALIVE_EVERY / 2)
            if kind == "interrupt":
                self._on_interrupt()
            elif name in self._live and kind == "event":
                if self._on_event(self._live[name], what):
                    events.write(json.dumps({"worker": name, **what}) + "\n")
            elif name in self._live and kind == "exit":
                events.write(json.dumps({"worker": name, "event": "exit", "code": what.code}) + "\n")
                self._on_exit(self._live.pop(name), what)
        self._keep_alive()
        self._share_waiting()
        self._replace_lost()
        self._take_places()
        if self._schedule.may_get_more:
            for live in self._live.values():
                self._feed(live)
        if time.monotonic() - self._flushed >= ALIVE_EVERY:  # others may be reading along
            self._flushed = time.monotonic()
            events.flush()
        states = {f"w{live.place}": live.state for live in self._live.values()}
        self._display.progress(self._done_now(), self._failed, states)

    # --- starting and feeding workers

    def _take_places(self) -> None:
        """Start a worker in each further place that there is, as long as there are shards that nobody has."""
        if self._interrupts or not self._schedule.pending or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY
        started: list[_Live] = []
        for place in self._places.take(self._schedule.pending):
            try:
                started.append(self._launch(place))
            except MachineError as error:
                if not self._live:
                    raise
                self._display.say(f"{self._places.device(place)}: {error.message}; trying again")
                self._replacing[place] = _Replacing(self._look_at, time.monotonic() + PATIENCE_SECONDS)
        for live in started:  # when all are there, so that few shards are shared evenly
            self._feed(live)

    def _launch(self, place: int) -> _Live:
        self._starts += 1
        # Unique, so that a worker an earlier orch left behind never writes under the same temporary name.
        name = f"w{place}-{self._token}{self._starts:02d}"
        folder = self._paths.job(name)
        (folder / QUEUE_NAME).mkdir(parents=True)
        (folder / QUEUE_NAME / ALIVE_NAME).touch()
        worker = self._start(place, name, folder)
        live = _Live(worker, folder, place, time.monotonic())
        self._live[name] = live
        self._schedule.join(name)
        threading.Thread(target=self._listen, args=(name, worker), daemon=True).start()
        return live

    def _replace_lost(self) -> None:
        """Start a worker in each place that lost one; where that fails, try again for a while."""
        for place, replacing in list(self._replacing.items()):
            if self._interrupts or not self._schedule.pending:
                self._leave(place)
            elif time.monotonic() >= replacing.due:
                try:
                    self._feed(self._launch(place))
                except MachineError as error:
                    if time.monotonic() < replacing.until:
                        replacing.due = time.monotonic() + AGAIN_SECONDS
                        continue
                    error.hint = error.hint or GOES_ON
                    self._retire(place, error.message, error)
                else:
                    del self._replacing[place]

    def _leave(self, place: int) -> None:
        self._replacing.pop(place, None)
        self._places.give_back(place)

    def _retire(self, place: int, reason: str, error: OrchError) -> None:
        """Go on without a place. Raises `error` when it is the last one."""
        self._replacing.pop(place, None)
        self._places.retire(place)
        if not self._places.left():
            raise error
        device = self._places.device(place)
        self._retired.append(f"{device}: {reason}")
        workers = len(self._live) + len(self._replacing)
        self._display.say(f"{device} is given up ({reason}); going on with {workers} worker{'s' * (workers != 1)}")

    def _listen(self, name: str, worker: Worker) -> None:
        """In a thread of its own: turn a worker's output and end into what happened."""
        try:
            for line in worker.lines():
                event = parse_object(line)
                if event is not None and "event" in event:
                    self._happened.put(("event", name, event))
            ended = worker.wait()
        except Exception as error:
            ended = Exit(137, detail=f"lost touch with it: {error}")
        self._happened.put(("exit", name, ended))

    def _feed(self, live: _Live) -> None:
        """Give a worker what it has room for; one for which there is nothing leaves, and its place is free."""
        if self._interrupts or live.ended:
            return
        name = live.worker.name
        while (order := self._schedule.next_for(name)) is not None:
            write_json(live.folder / QUEUE_NAME / f"{order.number:05d}.json", order.document(), durable=False)
            live.given[order.number] = time.monotonic()
        if self._schedule.remaining == 0:
            self._end_all()
        elif not (self._schedule.assigned(name) or self._schedule.may_get_more or self._waiting()):
            self._end(live)

    def _waiting(self) -> list[tuple[float, int, _Live]]:
        """Shards that wait behind another, or for a model to be loaded: since when, and in whose queue."""
        return [
            (live.given[number], number, live)
            for live in self._live.values()
            for number in self._schedule.assigned(live.worker.name)
            if number not in live.begun
        ]

    def _share_waiting(self) -> None:
        """Workers without a shard get one that waits in another's queue; with nothing waiting they leave.

        Should its worker be reading it at this very moment, both predict it, to the same bytes.
        """
        for idle in list(self._live.values()):
            if not idle.shards_done or idle.ended or self._schedule.assigned(idle.worker.name):
                continue
            since, number, live = min(self._waiting(), default=(time.monotonic(), -1, idle), key=lambda one: one[0])
            if live is not idle and time.monotonic() - since >= WAITED_SECONDS:
                (live.folder / QUEUE_NAME / f"{number:05d}.json").unlink(missing_ok=True)
                self._schedule.take_back(live.worker.name, number)
            self._feed(idle)
            self._feed(live)

    def _end(self, live: _Live) -> None:
        live.ended = True
        (live.folder / QUEUE_NAME / END_NAME).touch()

    def _end_all(self) -> None:
        for live in self._live.values():
            self._end(live)

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now > self._kill_at:
            self._kill_at = None
            self._on_interrupt()
        for live in self._live.values():
            alive = live.folder / QUEUE_NAME / ALIVE_NAME
            if time.time() - alive.stat().st_mtime >= ALIVE_EVERY:
                os.utime(alive)
            if now - live.heard > SILENCE_SECONDS:
                live.heard = now
                self._on_silence(live)

    def _on_silence(self, live: _Live) -> None:
        if live.killed_as_silent:  # not even its end is heard of: whatever runs it is gone
            self._happened.put(("exit", live.worker.name, Exit(137, detail="never heard of again")))
            return
        live.killed_as_silent = True
        self._display.say(f"{live.worker.name} has not been heard for {SILENCE_SECONDS:.0f} s: replacing it")
        live.worker.kill()

    # --- what happened

    def _on_event(self, live: _Live, event: dict[str, Any]) -> bool:
        """Take note of an event; False if it need not be recorded: known already (streams are read again after a
        broken connection), or one of many alike.
        """
        if event.get("seq", 0) <= live.sequence:
            return False
        live.sequence = event["seq"]
        live.heard = time.monotonic()
        kind = event["event"]
        if kind in ("loading", "ready"):
            live.state = kind
        elif kind == "shard_started":
            live.begun[event["shard"]] = event["reused"]
            live.state = f"shard {event['shard']}"
        elif kind == "batch":
            live.announced = event["shard"], event["indices"]
        elif kind == "progress":
            live.begun[event["shard"]] = event["done"]
            if live.heard - live.recorded < RECORDED_EVERY:
                return False
            live.recorded = live.heard
        elif kind == "image_failed":
            self._failed += 1
        elif kind == "shard_done":
            self._on_shard_done(live, event)
        elif kind == "notice":
            self._notices.append(event["message"])
            self._display.say(f"{live.worker.name}: {event['message']}")
        elif kind == "failure":
            live.failure = event
        return bool(kind != "heartbeat")

    def _on_shard_done(self, live: _Live, event: dict[str, Any]) -> None:
        if self._schedule.done(event["shard"]):
            self._done += event["images"]
        self._losses.worked(live.place)
        live.shards_done += 1
        (live.folder / QUEUE_NAME / f"{event['shard']:05d}.json").unlink(missing_ok=True)
        live.begun.pop(event["shard"], None)
        if live.announced is not None and live.announced[0] == event["shard"]:
            live.announced = None
        self._feed(live)

    def _on_exit(self, live: _Live, ended: Exit) -> None:
        live.worker.close()
        done = self._interrupts or self._schedule.remaining == 0
        if done or (live.ended and not self._schedule.assigned(live.worker.name)):
            self._schedule.leave(live.worker.name)
            self._leave(live.place)
            return
        self._lost += 1
        under_way, batch = live.announced or (next(iter(live.begun), None), [])
        device = self._places.device(live.place)
        loss = Loss(live.place, device, ended, live.failure, under_way is None, self._log(live))
        place_lost, reason = self._losses.place_lost(loss), loss.reason
        if not self._schedule.lost(live.worker.name, under_way, batch, reason):
            raise RunError(f"shard {under_way} cost too many workers", why=f"the last one: {reason}", log=loss.log)
        if place_lost is not None:
            self._retire(live.place, reason, place_lost)
            return
        self._display.say(f"{live.worker.name} was lost ({reason}); starting another")
        now = time.monotonic()
        self._replacing[live.place] = _Replacing(now, now + PATIENCE_SECONDS)

    def _on_interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._display.say("stopping after the images at hand; Ctrl-C again stops at once")
            for live in self._live.values():
                live.worker.terminate()
            self._kill_at = time.monotonic() + GRACE_SECONDS
        else:
            for live in self._live.values():
                live.worker.kill()

    # --- the end

    def _done_now(self) -> int:
        return self._done + sum(sum(live.begun.values()) for live in self._live.values())

    def _log(self, live: _Live) -> Path:
        return self._paths.worker_log(live.worker.name)

    def _abandon(self) -> None:
        """End whatever still runs when dispatch is over, whether well or not."""
        for live in self._live.values():
            live.worker.kill()
            live.worker.close()
        self._live.clear()
        self._places.close()
