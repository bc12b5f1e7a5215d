"""A job in the spool, with the interface of a worker: its lines are the job's events, its exit the job's end."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.runtimes.base import Exit
from orchestrator.runtimes.guest_contract import END_NAME, QUEUE_NAME
from orchestrator.runtimes.warm.spool import TICKET_FORMAT, HeartbeatWatch, SpoolPaths
from orchestrator.system.files import write_json
from orchestrator.system.json_lines import JsonLinesFile

POLL_SECONDS = 0.002
"""Seconds between two looks for events while some arrived within the last ACTIVE_SECONDS."""
IDLE_POLL_SECONDS = 0.02
ACTIVE_SECONDS = 2.0
HEARTBEAT_CHECK_SECONDS = 0.5
"""Seconds between two checks whether the workers that may take the job are alive."""
WAITING_SIGN_SECONDS = 20.0
"""Seconds between two heartbeat events that are made here for a job that waits: no process writes events for it."""
KILL_SECONDS = 2.0


@dataclass(frozen=True)
class JobSpec:
    """A job for warm workers: its folder, the workers that may take it, and where its log goes."""

    name: str
    folder: Path
    tickets: Path
    model: str
    workers: Sequence[str]
    log: Path


class WarmWorker:
    """One job. Its ticket is written with its first shard, so that no worker claims an empty job."""

    def __init__(self, spool: SpoolPaths, spec: JobSpec) -> None:
        self.name = spec.name
        self._spool, self._spec = spool, spec
        self._job = spec.folder.name
        self._ticket = spec.tickets / f"{self._job}.json"
        self._watches = {worker: HeartbeatWatch(spool, worker) for worker in spec.workers}
        self._exit: Exit | None = None
        self._over = threading.Event()
        self._is_terminated = False
        self._killed_at: float | None = None
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
            (self._spec.folder / "stop").touch()

    def kill(self) -> None:
        """End the job now; the model stays loaded."""
        self._killed_at = self._killed_at or time.monotonic()
        with suppress(OSError):
            (self._spec.folder / "kill").touch()

    def close(self) -> None:
        """Copy the log into the run directory, and remove the job."""
        if self._exit is None:
            self.kill()
            if not self._withdraw():
                self._over.wait(KILL_SECONDS)
        folder = self._spec.folder
        with suppress(OSError), (folder / "worker.log").open("rb") as text, self._spec.log.open("ab") as log:
            shutil.copyfileobj(text, log)
        shutil.rmtree(folder, ignore_errors=True)

    # --- the ticket

    def _has_work(self) -> bool:
        """Wait for the first shard; False when none will come."""
        queue = self._spec.folder / QUEUE_NAME
        while True:
            is_ended = (queue / END_NAME).exists()
            if any(path.suffix == ".json" and path.name[0] != "." for path in queue.iterdir()):
                return True
            if is_ended or self._is_terminated or self._killed_at is not None:
                self._exit = Exit(0 if is_ended else 143)
                return False
            time.sleep(POLL_SECONDS)

    def _write_ticket(self) -> None:
        document = {"format": TICKET_FORMAT, "job": self._job, "model": self._spec.model, "created": time.time()}
        write_json(self._ticket, {**document, "workers": list(self._spec.workers)}, durable=False)

    def _withdraw(self) -> bool:
        """Delete the ticket; False if a worker claimed it."""
        try:
            self._ticket.unlink()
        except OSError:
            return False
        return True

    # --- the events and the end

    def _follow(self) -> Iterator[bytes]:
        events = JsonLinesFile(self._spec.folder / "events.jsonl")
        last_event = last_check = last_sent = time.monotonic()
        while True:
            job_exit = self._read_exit()  # before the events: they are complete once the file is there
            for event in events.read_new():
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
        return self._ticket.exists() or (self._spec.folder / "waiting").exists()

    def _read_exit(self) -> Exit | None:
        try:
            raw = json.loads((self._spec.folder / "exit.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        detail = raw.get("detail")
        return Exit(int(raw["code"]), detail == "out of memory", detail)

    def _exit_without_worker(self, now: float) -> Exit | None:
        """Return how the job ended where no worker will write its exit.json; None while one may."""
        if self._killed_at is not None and (now - self._killed_at > KILL_SECONDS or self._withdraw()):
            return Exit(137)
        if self._is_terminated and self._withdraw():
            return Exit(143)
        claimed = [worker for worker in self._watches if self._spool.claim(worker, self._job).exists()]
        gone = [worker for worker, watch in self._watches.items() if watch.is_gone()]
        if claimed and claimed[0] in gone:
            return Exit(137, detail="the warm worker is gone")
        if len(gone) == len(self._watches) and not claimed and self._withdraw():
            return Exit(137, detail="the warm worker left before it took the job")
        return None
