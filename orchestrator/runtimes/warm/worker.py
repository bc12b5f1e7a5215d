"""A job in the spool, with the interface of a worker: its lines are the job's events, its exit the job's end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.runtimes.base import Exit
from orchestrator.runtimes.guest_contract import END_NAME, QUEUE_NAME
from orchestrator.runtimes.warm.heartbeat import HeartbeatWatch, clean_text, read_heartbeat
from orchestrator.runtimes.warm.spool import CLAIMED, JOBS, TICKET_FORMAT, TICKETS, VariantSpool
from orchestrator.system import GuestFileRefused, GuestTree, LineSplitter, json_bytes, parse_object

POLL_SECONDS = 0.002
"""Seconds between two looks for events while some arrived within the last ACTIVE_SECONDS."""
IDLE_POLL_SECONDS = 0.02
ACTIVE_SECONDS = 2.0
HEARTBEAT_CHECK_SECONDS = 0.5
"""Seconds between two checks whether the workers that may take the job are alive."""
WAITING_SIGN_SECONDS = 20.0
"""Seconds between two heartbeat events that are made here for a job that waits: no process writes events for it."""
KILL_SECONDS = 2.0
LOST_SECONDS = 30.0
"""Seconds that a job waits for workers that have no other; a network file system may show a claim that late."""
EVENTS_LIMIT = 1 << 30
"""Bytes of events that a job may write."""
LOG_LIMIT = 16 << 20
"""Bytes of a job's log that are kept, its last ones."""


@dataclass(frozen=True)
class JobSpec:
    """A job for warm workers: its folder, the workers that may take it, and where its log goes."""

    name: str
    folder: Path
    model: str
    workers: Sequence[str]
    log: Path


class WarmWorker:
    """One job. Its ticket is written with its first shard, so that no worker claims an empty job."""

    def __init__(self, spool: VariantSpool, spec: JobSpec) -> None:
        """Open the job's folder, which stays that folder whatever the worker renames. Raises OSError."""
        self.name = spec.name
        self._spec = spec
        self._job = spec.folder.name
        self._ticket = f"{TICKETS}/{self._job}.json"
        self._tree = spool.open()
        self._folder = self._tree.below(f"{JOBS}/{self._job}")
        with self._folder.below(QUEUE_NAME) as queue:
            self._queue = queue.status()
        self._events = _Events(self._folder)
        self._watches = {worker: HeartbeatWatch(self._tree, worker) for worker in spec.workers}
        self._exit: Exit | None = None
        self._over = threading.Event()
        self._is_terminated = False
        self._killed_at: float | None = None
        self._held_at = time.monotonic()
        """When the job was last claimed, or had to wait for others."""
        self._sequence = 0

    # --- the Worker protocol

    def lines(self) -> Iterator[bytes]:
        """Yield the job's events."""
        try:
            if self._has_work():
                self._write_ticket()
                yield from self._follow()
        finally:
            self._over.set()

    def wait(self) -> Exit:
        """Block until the job has ended."""
        self._over.wait()
        return self._exit or Exit(137, detail="lost touch with the warm worker")

    def terminate(self) -> None:
        """Have the worker finish the batch that it predicts, and end the job."""
        self._is_terminated = True
        with suppress(OSError):
            self._folder.touch("stop")

    def kill(self) -> None:
        """End the job now; the model stays loaded."""
        self._killed_at = self._killed_at or time.monotonic()
        with suppress(OSError):
            self._folder.touch("kill")

    def close(self) -> None:
        """Copy the log into the run directory, and remove the job."""
        if self._exit is None:
            self.kill()
            if not self._withdraw():
                self._over.wait(KILL_SECONDS)
        with suppress(OSError):
            self._copy_log()
        self._folder.close()
        self._tree.remove_folder(f"{JOBS}/{self._job}")
        self._tree.close()

    def _copy_log(self) -> None:
        state = self._folder.state("worker.log")
        if state is not None:
            text = self._folder.read_block("worker.log", max(0, state.size - LOG_LIMIT), LOG_LIMIT)
            with self._spec.log.open("ab") as log:
                log.write(text)

    # --- the ticket

    def _has_work(self) -> bool:
        """Wait for the first shard; False when none will come."""
        while True:
            is_ended = self._folder.has(f"{QUEUE_NAME}/{END_NAME}")
            if any(name.endswith(".json") and name[0] != "." for name in self._folder.names(QUEUE_NAME)):
                return True
            if is_ended or self._is_terminated or self._killed_at is not None:
                self._exit = Exit(0 if is_ended else 143)
                return False
            time.sleep(POLL_SECONDS)

    def _write_ticket(self) -> None:
        document = {"format": TICKET_FORMAT, "job": self._job, "model": self._spec.model, "created": time.time()}
        self._tree.write(self._ticket, json_bytes({**document, "workers": list(self._spec.workers)}))

    def _withdraw(self) -> bool:
        """Delete the ticket; False if a worker claimed it."""
        try:
            return self._tree.remove(self._ticket)
        except OSError:
            return False

    # --- the events and the end

    def _follow(self) -> Iterator[bytes]:
        last_event = last_check = last_sent = time.monotonic()
        while True:
            job_exit = self._read_exit()  # before the events: they are complete once the file is there
            for event in self._events.read_new():
                if "event" not in event:
                    continue
                last_event = last_sent = time.monotonic()
                yield self._process(event)
            if job_exit is not None:
                self._exit = job_exit
                return
            now = time.monotonic()
            if now - last_check > HEARTBEAT_CHECK_SECONDS or self._killed_at is not None:
                last_check = now
                self._exit = self._exit_without_worker(now)
                if self._exit is not None:
                    return
            if now - last_sent > WAITING_SIGN_SECONDS and self._is_waiting():
                last_sent = now
                yield self._process({"event": "heartbeat", "rss_mb": None})
            time.sleep(POLL_SECONDS if now - last_event < ACTIVE_SECONDS else IDLE_POLL_SECONDS)

    def _process(self, event: dict[str, Any]) -> bytes:
        """Return the line of an event with a number of this worker's own."""
        self._sequence += 1
        return json.dumps({**event, "seq": self._sequence}).encode()

    def _is_waiting(self) -> bool:
        """Return whether no process serves the job, not yet or not at the moment."""
        return self._tree.has(self._ticket) or self._folder.has("waiting")

    def _read_exit(self) -> Exit | None:
        """Return the end that the worker reports; None for what is no such report."""
        try:
            raw = parse_object(self._folder.read("exit.json")) or {}
            code = raw.get("code")
            detail = None if raw.get("detail") is None else clean_text(raw["detail"])
        except (OSError, ValueError):
            return None
        if type(code) is not int or not -255 <= code <= 255:
            return None
        return Exit(code, detail == "out of memory", detail)

    def _exit_without_worker(self, now: float) -> Exit | None:
        """Return how the job ended where no worker will write its exit.json; None while one may."""
        if self._killed_at is not None and (now - self._killed_at > KILL_SECONDS or self._withdraw()):
            return Exit(137)
        if self._is_terminated and self._withdraw():
            return Exit(143)
        if self._events.position > EVENTS_LIMIT:
            return Exit(137, detail=f"it wrote more than {EVENTS_LIMIT >> 20} MB of events")
        if self._is_replaced():
            return Exit(137, detail="the warm worker replaced the folder of its job")
        claimed = [worker for worker in self._watches if self._tree.has(f"{CLAIMED}/{worker}/{self._job}.json")]
        gone = [worker for worker, watch in self._watches.items() if watch.is_gone()]
        if claimed and claimed[0] in gone:
            return Exit(137, detail="the warm worker is gone")
        if len(gone) == len(self._watches) and not claimed:
            self._withdraw()
            return Exit(137, detail="the warm worker left before it took the job")
        if claimed or (self._tree.has(self._ticket) and self._is_any_busy()):
            self._held_at = now
        elif now - self._held_at > LOST_SECONDS:
            self._withdraw()
            return Exit(137, detail="the warm worker has nothing to do, but does not take the job")
        return None

    def _is_any_busy(self) -> bool:
        """Return whether one of the workers that may take the job has others."""
        beats = (read_heartbeat(self._tree, worker) for worker in self._watches)
        return any(beat is not None and beat.jobs for beat in beats)

    def _is_replaced(self) -> bool:
        """Return whether another folder than the host's stands where the worker looks for its shards."""
        try:
            with self._tree.below(f"{JOBS}/{self._job}/{QUEUE_NAME}") as now:
                ours, theirs = self._queue, now.status()
        except (GuestFileRefused, FileNotFoundError):
            return True
        except OSError:  # a network file system that is away for a moment
            return False
        return (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino)


class _Events:
    """The events of a job, as the worker writes them."""

    def __init__(self, folder: GuestTree) -> None:
        self._folder, self._splitter = folder, LineSplitter()
        self.position = 0
        """Bytes read so far."""

    def read_new(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of the lines completed since the last call, at most one block of them."""
        try:
            block = self._folder.read_block("events.jsonl", self.position)
        except OSError:
            return
        self.position += len(block)
        yield from filter(None, map(parse_object, self._splitter.feed(block)))
