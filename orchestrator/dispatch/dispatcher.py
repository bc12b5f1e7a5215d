"""The dispatcher: hand shards to workers, watch them, replace lost ones, stop when the user asks for it.

One thread decides everything. Threads that listen to workers, and signal handlers, only put what happened into a queue.
"""

from __future__ import annotations

import json
import queue
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orchestrator.dispatch.batch_timer import BatchLimits, BatchTimer
from orchestrator.dispatch.listener import Happened, Listener
from orchestrator.dispatch.out_size import find_excess
from orchestrator.dispatch.running_worker import RunningWorker
from orchestrator.dispatch.scheduler import ImagesOf, Scheduler
from orchestrator.dispatch.shard_intake import Intake
from orchestrator.dispatch.slots import OwnedSlots, Slots
from orchestrator.dispatch.worker_failures import LOST_HINT, RESUME_HINT, WorkerFailure, WorkerFailures
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError
from orchestrator.paths import RunPaths
from orchestrator.runtimes import ALIVE_EVERY, OUT_SIZE, Exit, JobQueue, Worker
from orchestrator.system import Display, open_to_append

if TYPE_CHECKING:
    from orchestrator.predictions import ShardFault

SILENCE_SECONDS = 120.0
"""A worker that sends no event for this long, not even a heartbeat, counts as hung."""
REPLACE_SECONDS = 90.0
"""Seconds to keep trying to replace a lost worker; a restarting engine needs about a minute."""
RETRY_SECONDS = 2.0
"""Seconds between two attempts to replace a lost worker."""
RECORD_SECONDS = 10.0
"""Seconds between recorded progress events of a worker; all of them would be gigabytes a day."""
GRACE_SECONDS = 30.0
"""Seconds for workers to finish their images after the first Ctrl-C, before they are killed."""
SLOT_CHECK_SECONDS = 1.0
"""Seconds between two checks for further slots, such as on a GPU that another run released."""
MOST_RECORDED_FAILURES = 100_000
"""Failed images whose events are recorded; the predictions have the reasons of all."""
RECORDED_REASON = 200
"""Characters of the reason in such an event."""
MOST_NOTICES = 1000
"""Notices of workers that are kept for the summary; more are dropped."""
SIZE_CHECK_SECONDS = 2.0
"""Seconds between two looks at the size of a worker's out folder."""
QUEUED_SECONDS = 1.0
"""Queued shards older than this may move to an idle worker."""

REFUSED = "the worker's result breaks the rules"
"""Begins the reason of an image that failed for it."""

StartWorker = Callable[[int, str, Path], Worker]
"""Starts a worker in a slot, with a name, on the queue in a job folder."""


@dataclass(frozen=True)
class DispatchResult:
    """How a dispatch went that predicted all shards."""

    notices: tuple[str, ...]
    lost_workers: int
    seconds: float
    retired: tuple[str, ...] = ()
    """Devices that were no longer used, each with the reason."""


@dataclass
class _Replacement:
    """A slot whose worker was lost: when to try again, and when to give up."""

    due: float
    deadline: float


class Dispatcher:
    """Has the shards of one run predicted."""

    def __init__(
        self,
        paths: RunPaths,
        start: StartWorker,
        display: Display,
        shards: Sequence[int] | Scheduler,
        images_of: ImagesOf,
        intake: Intake,
        out_size: int = OUT_SIZE,
        batch_limits: BatchLimits | None = None,
    ) -> None:
        """`out_size`: bytes that a worker's out folder may hold."""
        self._paths, self._start, self._display, self._intake = paths, start, display, intake
        self._out_size, self._batch_limits = out_size, batch_limits or BatchLimits()
        self._scheduler = shards if isinstance(shards, Scheduler) else Scheduler(shards, images_of)
        # A SimpleQueue's put may interrupt its own thread's get, as a signal handler does; a Queue's would wait for
        # the lock which that get holds, for ever.
        self._happened: Happened = queue.SimpleQueue()
        self._running: dict[str, RunningWorker] = {}
        self._replacements: dict[int, _Replacement] = {}
        self._slots: Slots = OwnedSlots(0)
        self._failures = WorkerFailures()
        self._token, self._starts = secrets.token_hex(3), 0
        self._interrupts, self._kill_at = 0, float("inf")
        self._done_images = self._failed_images = self._lost_workers = self._recorded_failures = 0
        self._notices: list[str] = []
        self._retired: list[str] = []
        self._next_slot_check = self._last_flush = 0.0

    def interrupt(self) -> None:
        """Stop cleanly; called twice: at once. Safe to call from a signal handler."""
        self._happened.put(("interrupt", "", None))

    def run(self, slots: Slots, total: int, already: int) -> DispatchResult:
        """Predict all shards. Raises Interrupted, RunError, MachineError; finished shards stay on disk."""
        started = time.monotonic()
        self._done_images, self._slots = already, slots
        try:
            with self._display.images(total, already), open_to_append(self._paths.events) as events:
                self._fill_slots()
                while self._running or self._replacements or (self._scheduler.remaining and not self._interrupts):
                    self._step(events)
        finally:
            self._kill_all()
        if self._interrupts:
            raise Interrupted("stopped")
        seconds = time.monotonic() - started
        return DispatchResult(tuple(self._notices), self._lost_workers, seconds, tuple(self._retired))

    def _step(self, events: IO[str]) -> None:
        """Handle what happened next, if anything did in a second, and what is due."""
        with suppress(queue.Empty):
            self._handle(*self._happened.get(timeout=ALIVE_EVERY / 2), events)
        self._watch_workers()
        self._share_queued_shards()
        self._replace_lost_workers()
        self._fill_slots()
        if self._scheduler.can_get_more:
            for running in self._running.values():
                self._feed(running)
        if time.monotonic() - self._last_flush >= ALIVE_EVERY:  # others may be reading along
            self._last_flush = time.monotonic()
            events.flush()
        self._show_progress()

    def _handle(self, kind: str, name: str, content: Any, events: IO[str]) -> None:
        if kind == "interrupt":
            self._on_interrupt()
        elif name in self._running and kind == "event":
            if self._on_event(self._running[name], content):
                _record(events, name, content)
        elif name in self._running and kind == "refused":
            number, fault = content
            recorded = {"event": "shard_refused", "shard": number, "category": "output", "message": fault.reason}
            _record(events, name, recorded)
            self._on_shard_refused(self._running[name], number, fault)
        elif kind == "notice":
            self._display.say(f"{name}: {content}")
        elif kind == "error":
            raise content
        elif name in self._running and kind == "exit":
            _record(events, name, {"event": "exit", "code": content.code})
            self._on_exit(self._running.pop(name), content)

    def _show_progress(self) -> None:
        done = self._done_images + sum(running.state.images_under_way for running in self._running.values())
        states = {f"w{running.slot}": running.state.status for running in self._running.values()}
        self._display.progress(done, self._failed_images, states)

    # --- starting workers

    def _fill_slots(self) -> None:
        """Start a worker in each further slot that can be reserved, as long as shards are pending."""
        if self._interrupts or not self._scheduler.pending or time.monotonic() < self._next_slot_check:
            return
        self._next_slot_check = time.monotonic() + SLOT_CHECK_SECONDS
        started: list[RunningWorker] = []
        for slot in self._slots.reserve(self._scheduler.pending):
            try:
                started.append(self._start_worker(slot))
            except MachineError as error:
                if not self._running:
                    raise
                self._display.say(f"{self._slots.device_of(slot)}: {error.message}; trying again")
                self._schedule_replacement(slot, self._next_slot_check)
        for running in started:  # when all are there, so that a small number of shards is shared evenly
            self._feed(running)

    def _start_worker(self, slot: int) -> RunningWorker:
        self._starts += 1
        # Unique, so that a worker an earlier orch left behind never writes under the same temporary name.
        name = f"w{slot}-{self._token}{self._starts:02d}"
        job = self._paths.job(name)
        job_queue = JobQueue(self._paths.job_folder(name))
        job_queue.create()
        worker = self._start(slot, name, job)
        now = time.monotonic()
        timer = BatchTimer(self._batch_limits, slot, now)
        running = RunningWorker(worker, job_queue, slot, self._paths.out(name), now, timer)
        self._running[name] = running
        self._scheduler.add_worker(name)
        Listener(worker, running.out, running.shards, self._intake, self._happened).start()
        return running

    # --- replacing workers

    def _schedule_replacement(self, slot: int, due: float) -> None:
        self._replacements[slot] = _Replacement(due, time.monotonic() + REPLACE_SECONDS)

    def _replace_lost_workers(self) -> None:
        """Start a worker in each slot that lost one; where that fails, try again for a while."""
        for slot, replacement in list(self._replacements.items()):
            if self._interrupts or not self._scheduler.pending:
                del self._replacements[slot]
                self._slots.release(slot)
            elif time.monotonic() >= replacement.due:
                self._replace(slot, replacement)

    def _replace(self, slot: int, replacement: _Replacement) -> None:
        try:
            self._feed(self._start_worker(slot))
        except MachineError as error:
            if time.monotonic() < replacement.deadline:
                replacement.due = time.monotonic() + RETRY_SECONDS
                return
            error.hint = error.hint or RESUME_HINT
            self._retire(slot, error.message, error)
        else:
            del self._replacements[slot]

    def _retire(self, slot: int, reason: str, error: OrchError) -> None:
        """Continue without a slot. Raises `error` when it is the last one."""
        self._replacements.pop(slot, None)
        self._slots.retire(slot)
        if not self._slots.has_usable():
            raise error
        device = self._slots.device_of(slot)
        self._retired.append(f"{device}: {reason}")
        workers = len(self._running) + len(self._replacements)
        others = any(self._slots.device_of(running.slot) == device for running in self._running.values())
        loss = "is used by one worker less" if others else "is no longer used"
        self._display.say(f"{device} {loss} ({reason}); continuing with {workers} worker{'s' * (workers != 1)}")

    # --- feeding workers

    def _feed(self, running: RunningWorker) -> None:
        """Fill a worker's queue; a worker for which no shard is left ends, which frees its slot."""
        if self._interrupts or running.is_ending:
            return
        while (shard := self._scheduler.assign_next(running.name)) is not None:
            running.shards[shard.number] = shard.images
            running.queued_at[shard.number] = time.monotonic()
            self._intake.give_part(running.out, shard.number)
            running.queue.put(shard)
        if self._scheduler.remaining == 0:
            for other in self._running.values():
                other.end()
        elif not (self._scheduler.shards_of(running.name) or self._scheduler.can_get_more or self._queued_shards()):
            running.end()

    def _queued_shards(self) -> list[tuple[float, int, RunningWorker]]:
        """Return the assigned shards that are not begun: since when, their number, their worker."""
        return [
            (running.queued_at[number], number, running)
            for running in self._running.values()
            for number in self._scheduler.shards_of(running.name)
            if number not in running.state.under_way
        ]

    def _share_queued_shards(self) -> None:
        """Give each idle worker a shard that is queued for another; with none queued the idle worker ends.

        Should the other worker be reading it at this very moment, both predict it, to the same bytes.
        """
        for idle in list(self._running.values()):
            if not idle.state.finished or idle.is_ending or self._scheduler.shards_of(idle.name):
                continue
            oldest = min(self._queued_shards(), default=None, key=lambda queued: queued[0])
            if oldest is not None and time.monotonic() - oldest[0] >= QUEUED_SECONDS:
                _, number, running = oldest
                running.queue.remove(number)
                running.queued_at.pop(number, None)
                self._scheduler.take_back(running.name, number)
                self._feed(idle)
                self._feed(running)
            else:
                self._feed(idle)

    # --- watching workers

    def _watch_workers(self) -> None:
        now = time.monotonic()
        if now > self._kill_at:
            self._kill_at = float("inf")
            self._on_interrupt()
        for running in self._running.values():
            running.queue.keep_alive()
            if now > running.next_size_check:
                self._check_size(running)
            if now - running.last_event > SILENCE_SECONDS:
                running.last_event = now
                self._on_silence(running)

    def _check_size(self, running: RunningWorker) -> None:
        """Kill a worker whose out folder is larger than it may be."""
        running.next_size_check = time.monotonic() + SIZE_CHECK_SECONDS
        running.excess = running.excess or find_excess(running.out, self._out_size)
        if running.excess is not None:
            running.worker.kill()

    def _check_batch(self, running: RunningWorker, event: dict[str, Any]) -> None:
        """Kill a worker that has worked on a batch for too long."""
        limit = running.timer.update(event, running.state, running.last_event)
        if limit is not None and running.excess is None:
            running.excess = f"a batch took longer than {limit:.3g} s, --batch-timeout changes the limit"
            self._display.say(f"{running.name}: {running.excess}")
            running.worker.kill()

    def _on_silence(self, running: RunningWorker) -> None:
        if running.is_killed_as_silent:
            self._intake.take_parts(running.out, dict(running.shards))
            # Not even its exit was reported: the engine that ran it is gone
            detail = "no event, and no exit after it was killed: what runs it does not answer"
            self._happened.put(("exit", running.name, Exit(137, detail=detail, hint=LOST_HINT)))
            return
        running.is_killed_as_silent = True
        self._display.say(f"{running.name} has sent no event for {SILENCE_SECONDS:.0f} s: replacing it")
        running.worker.kill()

    def _on_event(self, running: RunningWorker, event: dict[str, Any]) -> bool:
        """Handle an event; False if it need not be recorded: one of many alike."""
        state = running.state
        failed_before = state.failed_images
        state.apply(event)
        self._failed_images += state.failed_images - failed_before
        running.last_event = time.monotonic()
        self._check_batch(running, event)
        match event:
            case {"event": "heartbeat"}:
                return False
            case {"event": "progress"}:
                if running.last_event - running.last_recorded < RECORD_SECONDS:
                    return False
                running.last_recorded = running.last_event
            case {"event": "image_failed"}:
                self._recorded_failures += 1
                if "error" in event:
                    event["error"] = event["error"][:RECORDED_REASON]
                return self._recorded_failures <= MOST_RECORDED_FAILURES
            case {"event": "shard_done", "shard": int(shard)}:
                self._on_shard_done(running, shard)
            case {"event": "notice", "message": str(message)}:
                if len(self._notices) >= MOST_NOTICES:
                    return False
                self._notices.append(message)
                self._display.say(f"{running.name}: {message}")
        return True

    def _on_shard_done(self, running: RunningWorker, shard: int) -> None:
        images = running.shards.pop(shard, ())
        running.queued_at.pop(shard, None)
        if self._scheduler.mark_done(shard):
            self._done_images += len(images)
        self._failures.record_success(running.slot)
        running.queue.remove(shard)
        self._feed(running)

    def _on_shard_refused(self, running: RunningWorker, number: int, fault: ShardFault) -> None:
        """Have a shard predicted again whose result breaks the rules; in the end its images fail, never the run."""
        running.queue.remove(number)
        running.state.drop(number)
        images = running.shards.get(number, ())
        self._display.say(f"{running.name}: the result of shard {number} is refused: {fault.reason}")
        reasons = {images[position].index: f"{REFUSED}: {why}" for position, why in fault.images.items()}
        if self._scheduler.record_refusal(running.name, number, reasons):
            running.shards.pop(number, None)
            self._feed(running)
            return
        self._intake.fail(number, f"{REFUSED}: {fault.reason}")
        self._failed_images += len(images)
        self._on_shard_done(running, number)

    def _on_exit(self, running: RunningWorker, worker_exit: Exit) -> None:
        running.worker.close()
        is_over = self._interrupts or self._scheduler.remaining == 0
        if is_over or (running.is_ending and not self._scheduler.shards_of(running.name)):
            self._scheduler.remove_worker(running.name)
            self._slots.release(running.slot)
            return
        self._lost_workers += 1
        state = running.state
        if running.excess is not None:
            worker_exit, state.failure = Exit(worker_exit.code, detail=running.excess), None
        under_way, batch = state.announced or (next(iter(state.under_way), None), [])
        failure = WorkerFailure(
            slot=running.slot,
            device=self._slots.device_of(running.slot),
            exit=worker_exit,
            failure=state.failure,
            idle=under_way is None,
            others_work=any(other.state.versions is not None for other in self._running.values()),
            log=self._paths.worker_log(running.name),
        )
        slot_error, reason = self._failures.judge(failure), failure.reason
        if not self._scheduler.record_loss(running.name, under_way, batch, reason):
            message, why = f"shard {under_way} cost too many workers", f"the last one: {reason}"
            raise RunError(message, why=why, log=failure.log, hint=failure.hint)
        if slot_error is not None:
            self._retire(running.slot, reason, slot_error)
            return
        self._display.say(f"{running.name} was lost ({reason}); starting another")
        self._schedule_replacement(running.slot, time.monotonic())

    # --- stopping

    def _on_interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._display.say("stopping after the images being predicted; Ctrl-C again stops at once")
            for running in self._running.values():
                running.worker.terminate()
            self._kill_at = time.monotonic() + GRACE_SECONDS
        else:
            for running in self._running.values():
                running.worker.kill()

    def _kill_all(self) -> None:
        """End all workers that still run when the dispatch is over, whether it succeeded or not."""
        for running in self._running.values():
            running.worker.kill()
            self._intake.take_parts(running.out, dict(running.shards))
            running.worker.close()
        self._running.clear()
        self._slots.close()


def _record(events: IO[str], worker: str, event: dict[str, Any]) -> None:
    events.write(json.dumps({"worker": worker, **event}) + "\n")
