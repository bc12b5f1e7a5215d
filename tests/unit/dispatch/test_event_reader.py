"""What a worker prints: numbered once, about its own shards, no faster than there is reason for."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.dispatch.event_reader import EVENTS_PER_SECOND, EventReader
from orchestrator.dispatch.worker_state import WorkerState
from orchestrator.runtimes.guest_contract import EVENTS, TEXT_LENGTH, parse_event
from tests.unit.dispatch.test_dispatcher import images_of


class Case:
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.now = 100.0
        self.reader = EventReader({1: images_of(1)}, self.notices.append, lambda: self.now)

    def read(self, event: str, seq: int, **fields: Any) -> dict[str, Any] | None:
        return self.reader.read(json.dumps({"event": event, "seq": seq, **fields}).encode())


def test_an_event_comes_once() -> None:
    case = Case()
    assert case.read("loading", 1)
    assert case.read("loading", 1) is None
    assert case.read("loading", 2)
    assert case.notices == []


def test_a_number_far_ahead_hides_nothing() -> None:
    case = Case()
    assert case.read("loading", 1)
    assert case.read("loading", (1 << 53) - 1)
    assert case.read("loading", 2)


def test_events_of_other_shards_and_images_are_dropped_with_one_notice() -> None:
    case = Case()
    assert case.read("shard_started", 1, shard=1, reused=0)
    assert case.read("shard_started", 2, shard=0, reused=0) is None
    assert case.read("image_failed", 3, shard=1, index=3) is None
    assert case.read("batch", 4, shard=1, indices=[4, 8]) is None
    assert case.read("batch", 5, shard=1, indices=[4, 7])
    assert case.read("progress", 6, shard=1, done=10**9) == {"event": "progress", "seq": 6, "shard": 1, "done": 4}
    assert case.notices == []


def test_a_line_that_is_no_event_is_reported_once() -> None:
    case = Case()
    assert [case.reader.read(line) for line in (b"x", b"{}", b"")] == [None] * 3
    assert len(case.notices) == 1


def test_a_made_up_number_hides_no_finished_shard() -> None:
    case = Case()
    assert case.read("loading", 50)
    assert case.read("shard_done", 2, shard=1)
    assert case.read("shard_done", 2, shard=1) is None, "the very same line"
    assert case.read("heartbeat", 3)


def test_too_many_events_are_dropped_but_never_a_finished_shard() -> None:
    case = Case()
    read = [case.read("loading", number) for number in range(1, EVENTS_PER_SECOND + 50)]
    assert sum(one is not None for one in read) == EVENTS_PER_SECOND
    assert case.read("shard_done", EVENTS_PER_SECOND + 50, shard=1)
    assert len(case.notices) == 1
    case.now += 1
    assert case.read("loading", EVENTS_PER_SECOND + 51)


def test_texts_are_cut_and_unknown_fields_dropped() -> None:
    line = json.dumps({"event": "notice", "seq": 1, "time": 5, "message": "x" * 3000, "worker": "w9"}).encode()
    assert parse_event(line) == {"event": "notice", "seq": 1, "time": 5, "message": "x" * TEXT_LENGTH}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([0, 1, 4, 5, 7]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({name for fields in EVENTS.values() for part in fields for name in part} | {"seq", "time"})
LINES = st.fixed_dictionaries(
    {"event": st.sampled_from([*EVENTS, "exit", "invented"]) | VALUES},
    optional=dict.fromkeys(FIELDS, VALUES),
).map(lambda event: json.dumps(event).encode()) | st.binary(max_size=60)


@given(st.lists(LINES, max_size=8))
@settings(max_examples=400, deadline=None)
def test_no_line_raises_anything(lines: list[bytes]) -> None:
    reader, state = EventReader({1: images_of(1)}, lambda message: None), WorkerState()
    for line in lines:
        event = reader.read(line)
        if event is not None:
            assert event.get("shard", 1) == 1
            state.apply(event)
            json.dumps(event, allow_nan=False)
    assert state.images_under_way <= 4


def test_the_ends_of_shards_that_a_worker_no_longer_has_are_forgotten() -> None:
    shards = {1: images_of(1)}
    reader = EventReader(shards, lambda message: None)
    for number in range(1, 500):
        shards.clear()
        shards[number] = images_of(number)
        line = json.dumps({"event": "shard_done", "seq": number, "shard": number}).encode()
        assert reader.read(line) is not None
        assert reader.read(line) is None
    assert len(reader._decisive) == 1


def test_made_up_ends_of_a_shard_fill_no_memory() -> None:
    case = Case()
    assert all(case.read("shard_done", number, shard=1) for number in range(1, 500))
    assert len(case.reader._decisive[1]) <= 100
