"""Whatever a worker prints: the host's reader of events raises nothing, and lets through what the contract allows."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.dispatch.event_reader import EventReader
from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.inputs.manifest import InputImage
from tests.hostile.fuzzing import damaged, fuzzed

IMAGES = [InputImage(index, f"{index}.png", f"0/{index}.png", index + 1, 1, 1) for index in range(8)]
SHARDS = {0: IMAGES[:4], 1: IMAGES[4:]}
KINDS = "hello loading ready shard_started batch image_failed progress notice shard_done heartbeat failure bye exit"
FIELDS = (
    "seq time shard images reused indices index file error done total message failed instances seconds rss_mb category"
    " hint reason versions device batch_size contract runner python pid model worker code"
)
HONEST = (
    b'{"event": "hello", "seq": 1, "time": 1.5, "contract": "orch-job/1", "runner": "0.1", "python": "3.11", "pid": 7}',
    b'{"event": "ready", "seq": 2, "time": 2.5, "device": "cpu", "batch_size": 1, "seconds": 0.1, "versions": {}}',
    b'{"event": "shard_started", "seq": 3, "time": 3.5, "shard": 0, "images": 4, "reused": 0}',
    b'{"event": "batch", "seq": 4, "time": 3.5, "shard": 0, "indices": [0, 1]}',
    b'{"event": "image_failed", "seq": 5, "time": 3.5, "shard": 0, "index": 1, "file": "1.png", "error": "x"}',
    b'{"event": "shard_done", "seq": 6, "time": 4, "shard": 0, "images": 4, "failed": 0, "instances": 9, "seconds": 1}',
    b'{"event": "failure", "seq": 7, "time": 4, "category": "load", "message": "x", "hint": null}',
)
SOUND = (
    *HONEST,
    b'{"event": "progress", "seq": 8, "time": 4, "shard": 1, "done": 2, "total": 4}',
    b'{"event": "notice", "seq": 9, "time": 4, "message": "x"}',
)
numbers = st.one_of(
    st.integers(-2, 10),
    st.integers(),
    st.floats(),
    st.sampled_from([11, 150, 2**40, 2**53, 2**63, 10**100, -(10**400), 1e308]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20), st.sampled_from(["", "\x1b[2J", "\ud800"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
events = st.builds(
    lambda kind, fields: {**fields, "event": kind},
    st.one_of(st.sampled_from(KINDS.split()), values),
    st.dictionaries(st.sampled_from(FIELDS.split()), values, max_size=8),
)


COUNTS = ("done", "reused", "images", "index", "shard", "failed", "total", "batch_size")


@st.composite
def nearly_honest(draw: st.DrawFn) -> list[bytes]:
    """A stream of honest events in their order, in some of which a count or another field has another value."""
    stream = []
    for number, line in enumerate(draw(st.lists(st.sampled_from(SOUND), min_size=1, max_size=8)), 1):
        event = {**json.loads(line), "seq": number}
        counts = [name for name in COUNTS if name in event]
        if counts:
            event[draw(st.sampled_from(counts))] = draw(st.sampled_from([0, 1, 2, 9, 150, 2**40, 2**53 - 1, -1, True]))
        if draw(st.integers(0, 3)) == 0:
            event[draw(st.sampled_from(sorted(event)))] = draw(st.one_of(numbers, values))
        stream.append(json.dumps(event).encode("utf-8", "surrogatepass"))
    return stream


lines = st.one_of(
    nearly_honest().map(lambda stream: stream[0]),
    events.map(lambda event: json.dumps(event).encode("utf-8", "surrogatepass")),
    st.sampled_from(HONEST).flatmap(damaged),
    st.binary(max_size=200),
)


@given(st.one_of(nearly_honest(), nearly_honest(), st.lists(lines, max_size=10)))
@example([b"[" * 100_000, b'{"event": ' + b'{"a":' * 100_000])
@example([b'{"event": "notice", "seq": ' + b"9" * 5000 + b', "message": "x"}', *HONEST])
@example([b'{"event": "shard_done", "seq": true, "shard": true}'])
@fuzzed(300)
def test_no_line_of_a_worker_raises_or_leaves_the_contract(given_lines: list[bytes]) -> None:
    reader, state = EventReader(SHARDS, lambda message: None, lambda: 0.0), WorkerState()
    for line in given_lines:
        event = reader.read(line)
        if event is None:
            continue
        check(event)
        state.apply(event)
        json.dumps({"worker": "w0", **event}, allow_nan=False)
        assert state.images_under_way <= len(IMAGES)
        assert state.failed_images <= len(IMAGES)


def check(event: dict[str, Any]) -> None:
    """An event that came through is one of the contract."""
    assert event["event"] in KINDS.split()
    assert event["event"] != "exit", "only the host says that a worker has exited"
    assert type(event["seq"]) is int
    if "shard" in event:
        assert event["shard"] in SHARDS
    for value in event.values():
        assert not isinstance(value, str) or len(value) <= 2000


@given(st.lists(lines, max_size=10))
@example([b'{"event": "notice", "seq": 9007199254740991, "time": 1, "message": "x"}'])
@example([b'{"event": "notice", "seq": 2000, "time": 1, "message": "x"}'])
@fuzzed(50)
def test_honest_events_come_through_whatever_is_said_between_them(between: list[bytes]) -> None:
    reader = EventReader(SHARDS, lambda message: None, lambda: 0.0)
    odd = [line for line in between if not _has_small_number(line)]
    seen = []
    for line in [piece for honest in HONEST for piece in (*odd, honest)]:
        event = reader.read(line)
        if event is not None and line in HONEST:
            seen.append(line)
    assert seen == list(HONEST)


def _has_small_number(line: bytes) -> bool:
    """Whether a line is an event with a number of its own, which may rightly hide those before it."""
    try:
        event = json.loads(line)
        return isinstance(event, dict) and 0 < event["seq"] <= 1000
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
