"""Read what a worker prints: only events of the contract, each once, no more than a worker has reason to send."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.inputs import InputImage
from orchestrator.runtimes import parse_event

EVENTS_PER_SECOND = 2000
"""More events of a worker than this within a second are dropped."""
_LARGEST_GAP = 100
"""A number further ahead than this is not remembered: one odd line must not hide the events after it."""
_MOST_ENDS = 100
"""Lines about the end of one shard that are remembered: each is of another attempt at the shard."""
_DECISIVE = ("shard_done", "failure", "heartbeat", "bye")
"""Events without which a run would wait for ever or take a worker for dead: never dropped for their number or rate."""


class EventReader:
    """The events of one worker. `shards` has the images of each shard that the worker has."""

    def __init__(
        self,
        shards: Mapping[int, Sequence[InputImage]],
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`report` gets at most one message of each kind about lines that were dropped."""
        self._shards, self._report, self._clock = shards, report, clock
        self._sequence = 0
        self._second, self._count = 0.0, 0
        self._reported: set[str] = set()
        self._decisive: dict[int, set[bytes]] = {}
        """Digests of the lines about the end of each shard that the worker has: later, the shard is not its own."""

    def read(self, line: bytes) -> dict[str, Any] | None:
        """Return the event in a line; None for one to be dropped."""
        event = parse_event(line)
        if event is None:
            self._report_once("it sends lines that are no events of the contract; they are skipped")
            return None
        if self._is_repeated(event, line) or not self._is_about_own_shard(event):
            return None
        if self._is_too_often() and event["event"] not in _DECISIVE:
            self._report_once(f"it sends more than {EVENTS_PER_SECOND} events a second; the others are skipped")
            return None
        return event

    def _is_repeated(self, event: Mapping[str, Any], line: bytes) -> bool:
        """Return whether an event came before: a stream is read again after a broken connection.

        Numbers tell, but decide nothing about the events that a run waits for: a worker can make up any number.
        """
        if event["event"] in _DECISIVE:
            digest = hashlib.sha256(line).digest()
            return self._is_known(event.get("shard"), digest)
        is_repeated = bool(event["seq"] <= self._sequence)
        if 0 < event["seq"] - self._sequence <= _LARGEST_GAP:
            self._sequence = event["seq"]
        return is_repeated

    def _is_known(self, shard: int | None, digest: bytes) -> bool:
        """Return whether a line came before; remember it if it is about a shard of the worker's own."""
        for number in [number for number in self._decisive if number not in self._shards]:
            del self._decisive[number]
        if shard is None or shard not in self._shards:
            return False
        known = self._decisive.setdefault(shard, set())
        is_known = digest in known
        if len(known) < _MOST_ENDS:
            known.add(digest)
        return is_known

    def _is_about_own_shard(self, event: dict[str, Any]) -> bool:
        """Return whether an event names no shard, or one that the worker has, and only images of that shard.

        Numbers of finished images are limited to those that the shard has.
        """
        if "shard" not in event:
            return True
        images = self._shards.get(event["shard"])
        if images is None:
            return False
        for name in ("done", "reused"):
            if name in event:
                event[name] = min(event[name], len(images))
        known = range(images[0].index, images[-1].index + 1)
        indices: list[int] = event.get("indices", [event["index"]] if "index" in event else [])
        return all(index in known for index in indices)

    def _is_too_often(self) -> bool:
        now = self._clock()
        if now - self._second >= 1:
            self._second, self._count = now, 0
        self._count += 1
        return self._count > EVENTS_PER_SECOND

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self._reported.add(message)
            self._report(message)
