"""Listen to one worker in a thread of its own: take its finished shards, and queue what happened for the dispatcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any

from orchestrator.dispatch.event_reader import EventReader
from orchestrator.dispatch.shard_intake import Images, Intake
from orchestrator.errors import OrchError
from orchestrator.paths import GuestFolder
from orchestrator.runtimes import PART_EVERY, Exit, Worker

MOST_WAITING_EVENTS = 10_000
"""While more events wait to be handled, workers are not listened to: their own output waits."""

Happened = SimpleQueue[tuple[str, str, Any]]
"""("interrupt" | "event" | "refused" | "notice" | "error" | "exit", worker's name, what belongs to it)."""


class Listener:
    """The listener of one worker. `shards` has the images of each shard that the worker was given."""

    def __init__(
        self, worker: Worker, out: GuestFolder, shards: Mapping[int, Images], intake: Intake, happened: Happened
    ) -> None:
        self._worker, self._out, self._shards, self._intake = worker, out, shards, intake
        self._happened = happened
        self._reader = EventReader(shards, lambda message: self._put("notice", message))
        self._parts_taken = time.monotonic()

    def start(self) -> None:
        """Begin to listen, until the worker has ended."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for line in self._worker.lines():
                event = self._reader.read(line)
                if event is not None:
                    self._handle(event)
                if time.monotonic() - self._parts_taken > PART_EVERY:  # in case this machine is lost as well
                    self._take_parts()
                while self._happened.qsize() > MOST_WAITING_EVENTS:
                    time.sleep(0.01)
            worker_exit = self._worker.wait()
        except Exception as error:
            worker_exit = Exit(137, detail=f"lost touch with it: {error}")
        self._take_parts()
        self._put("exit", worker_exit)

    def _handle(self, event: dict[str, Any]) -> None:
        """Queue an event; that of a finished shard only once the shard is checked and in the run directory."""
        if event["event"] != "shard_done":
            self._put("event", event)
            return
        from orchestrator.predictions import ShardFault

        number = event["shard"]
        images = self._shards.get(number)
        if images is None:  # its result came already
            return
        try:
            content = self._intake.take(self._out, number, images)
        except ShardFault as fault:
            self._put("refused", (number, fault))
        except OrchError as error:
            self._put("error", error)
        else:
            if content is not None:
                counts = {"images": content.images, "failed": content.failed, "instances": content.instances}
                event = {**event, **counts}
            self._put("event", event)

    def _take_parts(self) -> None:
        self._intake.take_parts(self._out, dict(self._shards))
        self._parts_taken = time.monotonic()

    def _put(self, kind: str, content: Any) -> None:
        self._happened.put((kind, self._worker.name, content))
