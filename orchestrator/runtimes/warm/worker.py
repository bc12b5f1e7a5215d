"""A job in the spool as the dispatcher sees it: a worker, whose lines are the job's events and whose end is its end."""

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
from orchestrator.runtimes.warm.results import bring_back, give_parts
from orchestrator.runtimes.warm.spool import TICKET_FORMAT, Pulse, SpoolPaths
from orchestrator.system.files import write_json
from orchestrator.system.json_lines import JsonLinesFile

LOOK_SECONDS = 0.002
"""How often events are looked for while they come, and for a moment after."""
IDLE_LOOK_SECONDS = 0.02
BRISK_SECONDS = 2.0
PULSE_SECONDS = 0.5
SIGN_SECONDS = 20.0
"""A job that waits says nothing; so often this says for it that its worker lives."""
KILL_SECONDS = 2.0


@dataclass(frozen=True)
class JobSpec:
    """A job to be placed: its folder, the workers that may take it, and where its results and log go."""

    name: str
    folder: Path
    tickets: Path
    model: str
    workers: Sequence[str]
    shards: Path
    log: Path


class WarmWorker:
    """One job. The ticket is placed when there is a shard to predict, so that nobody claims a job to wait with it."""

    def __init__(self, spool: SpoolPaths, spec: JobSpec) -> None:
        self.name = spec.name
        self._spool, self._spec = spool, spec
        self._job = spec.folder.name
        self._ticket = spec.tickets / f"{self._job}.json"
        self._pulses = {worker: Pulse(spool, worker) for worker in spec.workers}
        self._given = give_parts(spec.shards, spec.folder / "out")
        self._exit: Exit | None = None
        self._over = threading.Event()
        self._terminated = False
        self._killed: float | None = None
        self._sequence = 0

    # --- the protocol

    def lines(self) -> Iterator[bytes]:
        """The job's events. A finished shard is in the run's folder before its event is handed on."""
        try:
            if self._has_work():
                self._place()
                yield from self._follow()
        finally:
            self._over.set()

    def wait(self) -> Exit:
        """Block until the job has ended."""
        self._over.wait()
        return self._exit or Exit(137, detail="lost touch with the warm worker")

    def terminate(self) -> None:
        """Ask for the batch at hand to be finished."""
        self._terminated = True
        with suppress(OSError):
            (self._spec.folder / "stop").touch()

    def kill(self) -> None:
        """End it now; the model stays loaded."""
        self._killed = self._killed or time.monotonic()
        with suppress(OSError):
            (self._spec.folder / "kill").touch()

    def close(self) -> None:
        """Take the parts and the log, and remove the job."""
        if self._exit is None:
            self.kill()
            if not self._withdraw():
                self._over.wait(KILL_SECONDS)
        folder = self._spec.folder
        with suppress(OSError):
            bring_back(folder / "out", self._spec.shards, self._given)
        with suppress(OSError), (folder / "worker.log").open("rb") as text, self._spec.log.open("ab") as log:
            shutil.copyfileobj(text, log)
        shutil.rmtree(folder, ignore_errors=True)

    # --- placing it

    def _has_work(self) -> bool:
        """Wait for the first shard; False when there will be none."""
        queue = self._spec.folder / QUEUE_NAME
        while True:
            ended = (queue / END_NAME).exists()
            if any(path.suffix == ".json" and path.name[0] != "." for path in queue.iterdir()):
                return True
            if ended or self._terminated or self._killed is not None:
                self._exit = Exit(0 if ended else 143)
                return False
            time.sleep(LOOK_SECONDS)

    def _place(self) -> None:
        document = {"format": TICKET_FORMAT, "job": self._job, "model": self._spec.model, "created": time.time()}
        write_json(self._ticket, {**document, "workers": list(self._spec.workers)}, durable=False)

    def _withdraw(self) -> bool:
        """Take the ticket back; False if it was claimed."""
        try:
            self._ticket.unlink()
        except OSError:
            return False
        return True

    # --- following it

    def _follow(self) -> Iterator[bytes]:
        events = JsonLinesFile(self._spec.folder / "events.jsonl")
        active = looked = said = time.monotonic()
        while True:
            ended = self._read_exit()
            for event in events.read_new():
                if "event" not in event:
                    continue
                active = said = time.monotonic()
                yield self._handed_on(event)
            if ended is not None:
                self._exit = ended
                return
            now = time.monotonic()
            if now - looked > PULSE_SECONDS or self._killed is not None:
                looked = now
                self._exit = self._given_up(now)
                if self._exit is not None:
                    return
            if now - said > SIGN_SECONDS and self._waits():
                said = now
                yield self._handed_on({"event": "heartbeat", "rss_mb": None})
            time.sleep(LOOK_SECONDS if now - active < BRISK_SECONDS else IDLE_LOOK_SECONDS)

    def _handed_on(self, event: dict[str, Any]) -> bytes:
        if event["event"] == "shard_done":
            bring_back(self._spec.folder / "out", self._spec.shards, self._given, event["shard"])
        self._sequence += 1
        return json.dumps({**event, "seq": self._sequence}).encode()

    def _waits(self) -> bool:
        """Whether nobody works on the job yet, or at the moment: then nobody speaks for it either."""
        return self._ticket.exists() or (self._spec.folder / "waiting").exists()

    def _read_exit(self) -> Exit | None:
        try:
            raw = json.loads((self._spec.folder / "exit.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        detail = raw.get("detail")
        return Exit(int(raw["code"]), detail == "out of memory", detail)

    def _given_up(self, now: float) -> Exit | None:
        """The end of a job of which nothing more is to be heard."""
        if self._killed is not None and (now - self._killed > KILL_SECONDS or self._withdraw()):
            return Exit(137)
        if self._terminated and self._withdraw():
            return Exit(143)
        claimed = [worker for worker in self._pulses if self._spool.claim(worker, self._job).exists()]
        gone = [worker for worker, pulse in self._pulses.items() if pulse.gone()]
        if claimed and claimed[0] in gone:
            return Exit(137, detail="the warm worker is gone")
        if len(gone) == len(self._pulses) and not claimed and self._withdraw():
            return Exit(137, detail="the warm worker went away before it took the job")
        return None
