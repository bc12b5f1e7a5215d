"""Starts warm workers as the processes they are, and places jobs in their spool as a host would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contract.harness import PATIENCE_SECONDS, RUNNER, STACK, Event, Guest, Outcome


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until that gives something true, and give that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)
    return found


def read_json(path: Path) -> Any:
    """A document, or None while it is not there."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


class SpooledJob(Guest):
    """A job in a spool, laid out like the folders of a runner of its own."""

    def place(
        self, worker: WarmProcess, settings: Mapping[str, Any] | None = None, created: float | None = None,
        **changes: Any,
    ) -> None:  # fmt: skip
        """Write job.json and the ticket. `created`: its time by the host's clock."""
        job = self.job(settings or {}, **changes)
        job["paths"].update(weights=str(worker.root / "weights"), cache=str(worker.cache), stack=str(STACK))
        (self.root / "job.json").write_text(json.dumps(job))
        self.ticket(worker, **({} if created is None else {"created": created}))

    def ticket(self, worker: WarmProcess, **more: Any) -> None:
        """Place the ticket alone."""
        document = {"format": "orch-ticket/1", "job": self.root.name, "model": "levels", "created": time.time(), **more}
        aside = worker.tickets / ".ticket"
        aside.write_text(json.dumps(document))
        aside.replace(worker.tickets / f"{self.root.name}.json")

    @property
    def events(self) -> list[Event]:
        """What was said so far."""
        path = self.root / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def until(self, name: str, times: int = 1) -> None:
        """Wait until an event of that kind came so many times."""
        until(lambda: sum(event["event"] == name for event in self.events) >= times, name)

    def wait(self) -> Outcome:
        """Wait for the end, and check that the events are numbered through."""
        ended = until(lambda: read_json(self.root / "exit.json"), f"the end of {self.root.name}")
        numbers = [event["seq"] for event in self.events]
        assert numbers == list(range(1, len(numbers) + 1))
        log = self.root / "worker.log"
        return Outcome(ended["code"], self.events, log.read_text() if log.exists() else "")


@dataclass
class WarmProcess:
    """A warm worker of the stack `levels`, in a folder that holds all it is mounted in a container."""

    python: str
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("data", "weights", "cache", "opt", "spool"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name, target in (("runner", RUNNER), ("stack", STACK)):
            (self.root / "opt" / name).symlink_to(target)

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def tickets(self) -> Path:
        return self.spool / "tickets"

    @property
    def log(self) -> str:
        """All it said on stderr, over all its starts."""
        return (self.root / "log.txt").read_text()

    @property
    def batches(self) -> list[list[str]]:
        """What predict() was called with, in order, for whichever job."""
        path = self.cache / "batches.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def variables(self, **environment: str) -> dict[str, str]:
        """The environment of the process."""
        paths = {name: str(self.root / name) for name in ("data", "weights", "cache", "opt")}
        own = {"ORCH_STACK": "levels", "ORCH_VARIANT": "cpu", "ORCH_DEVICE": "cpu", "ORCH_PATHS": json.dumps(paths)}
        return {**os.environ, "PYTHONPATH": str(RUNNER), "PYTHONDONTWRITEBYTECODE": "1", **own, **environment}

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return [self.python, "-m", "orch_runner.serve", *arguments, str(self.spool)]

    def start(self, **environment: str) -> WarmProcess:
        """Start it, and wait until it shows itself."""
        before = {beat["id"] for beat in self.heartbeats}
        with (self.root / "log.txt").open("ab") as log:
            process = subprocess.Popen(self.command(), env=self.variables(**environment), stderr=log)
        self.processes.append(process)
        until(lambda: {beat["id"] for beat in self.heartbeats} - before, f"a heartbeat: {self.log}")
        return self

    @property
    def heartbeats(self) -> list[dict[str, Any]]:
        """The heartbeats that lie there."""
        paths = (self.spool / "workers").glob("[!.]*.json")
        found = [read_json(path) for path in paths if not path.name.endswith(".files.json")]
        return [beat for beat in found if beat is not None]

    @property
    def heartbeat(self) -> dict[str, Any]:
        """The only heartbeat."""
        (beat,) = self.heartbeats
        return beat

    def new_job(self, name: str, files: Sequence[str] = (), **options: Any) -> SpooledJob:
        """A job whose first shard has these images, which are to be saved."""
        job = SpooledJob(self.python, self.spool / "jobs" / name)
        if files:
            job.put(0, files, **options)
        return job

    def send(self, number: int) -> int:
        """Send a signal and wait for the end."""
        self.processes[-1].send_signal(number)
        return self.processes[-1].wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Leave nothing running."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
