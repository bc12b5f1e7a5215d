"""A runner that is told to stop, or left alone, leaves nothing half-done and nothing to be done twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from tests.contract.harness import Guest, every_python, levels

FILES = [f"{at}.png" for at in range(11)]


def fill(guest: Guest) -> None:
    for at, file in enumerate(FILES):
        guest.save(file, levels(10 + at, 200 - at))
    guest.put(0, FILES)


def interrupt(guest: Guest, signals: int = 1) -> None:
    """Run, and stop while the fourth batch of two is predicted."""
    cache = guest.root / "cache"
    running = guest.start({"wait_at": "6.png"}, batch_size=2)
    wait_for(cache / "waiting")
    for _ in range(signals):
        running.process.terminate()
    (cache / "go").touch()
    outcome = running.wait()
    assert (outcome.status, outcome.story[-1], outcome.one("bye")["reason"]) == (143, "bye", "stopped")
    assert guest.outputs == ["00000.part.npz"]
    assert guest.shard(0, part=True)["image_file"].tolist() == FILES[:8]


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


@every_python
def test_an_interrupted_shard_ends_in_the_same_bytes(make_guest: Callable[[str], Guest]) -> None:
    whole, stopped = make_guest("whole"), make_guest("stopped")
    fill(whole)
    assert whole.run(batch_size=2).status == 0
    fill(stopped)
    interrupt(stopped)
    before = len(stopped.batches)
    outcome = stopped.run(batch_size=2)
    assert outcome.status == 0
    assert outcome.one("shard_started")["reused"] == 8
    assert list(chain.from_iterable(stopped.batches[before:])) == FILES[8:]
    assert stopped.outputs == ["00000.npz"]
    assert (stopped.root / "out" / "00000.npz").read_bytes() == (whole.root / "out" / "00000.npz").read_bytes()


def test_a_part_goes_on_in_whole_batches_and_a_whole_part_needs_none(make_guest: Callable[[str], Guest]) -> None:
    guest = make_guest("guest")
    fill(guest)
    assert guest.run({"extras": True}, batch_size=1, attributes=2, image_scores=True).status == 0
    final = guest.root / "out" / "00000.npz"
    wanted = final.read_bytes()
    part = final.rename(guest.root / "out" / "00000.part.npz")
    outcome = guest.run(batch_size=1, attributes=2, image_scores=True)
    assert (outcome.status, outcome.one("shard_started")["reused"]) == (0, len(FILES))
    assert final.read_bytes() == wanted
    assert not part.exists()


def forge(source: Path, target: Path, **meta: object) -> None:
    """Make a part of a finished shard, with some of its meta changed."""
    with np.load(source, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    arrays["meta"] = np.array(json.dumps({**json.loads(str(arrays["meta"])), **meta}))
    with target.open("wb") as stream:
        np.savez(stream, **arrays)


@every_python
def test_a_part_that_does_not_fit_is_predicted_again(make_guest: Callable[[str], Guest]) -> None:
    before, guest = make_guest("before"), make_guest("guest")
    fill(before)
    before.put(0, FILES[:4])
    assert before.run().status == 0
    source, out = before.root / "out" / "00000.npz", guest.root / "out"
    sound = source.read_bytes()
    fill(guest)
    for number in range(1, 7):
        guest.put(number, FILES if number < 6 else FILES[::-1])
    forge(source, out / "00000.part.npz")
    forge(source, out / "00001.part.npz", plan="sha256:2", shard=1)
    forge(source, out / "00002.part.npz", shard=0)
    (out / "00003.part.npz").write_bytes(sound[: len(sound) // 2])
    (out / "00004.part.npz").write_bytes(b"PK\x03\x04 garbage")
    (out / "00005.part.npz").touch()
    forge(source, out / "00006.part.npz", shard=6)
    outcome = guest.run(batch_size=3)
    assert outcome.status == 0
    # Three of the four that fit: one of the second batch alone would have other batch mates than before.
    assert [event["reused"] for event in outcome.named("shard_started")] == [3, 0, 0, 0, 0, 0, 0]
    assert guest.outputs == [f"{number:05d}.npz" for number in range(7)]
    assert all(len(guest.shard(number)["status"]) == len(FILES) for number in range(7))


@every_python
def test_being_stopped_while_loading_takes_no_time(guest: Guest) -> None:
    running = guest.start({"load": "sleep"})
    wait_for(guest.root / "cache" / "loading")
    started = time.monotonic()
    outcome = running.terminate()
    assert time.monotonic() - started < 5
    assert (outcome.status, outcome.story) == (143, ["hello", "loading", "bye"])
    assert outcome.one("bye")["reason"] == "stopped while loading"


def test_being_stopped_while_idle_and_being_left_by_the_host_look_different(make_guest: Callable[[str], Guest]) -> None:
    idle, left = make_guest("idle"), make_guest("left")
    running = idle.start()
    forgotten = left.start(alive_timeout=0.2)
    running.until("ready")
    outcome = running.terminate()
    assert (outcome.status, outcome.one("bye")["reason"]) == (143, "stopped")
    outcome = forgotten.wait()
    assert (outcome.status, outcome.one("bye")["reason"]) == (143, "the host is gone")


def test_a_host_that_shows_life_is_worked_for(guest: Guest) -> None:
    alive = guest.root / "queue" / "alive"
    alive.touch()
    running = guest.start(alive_timeout=2)
    running.until("ready")
    for _ in range(10):
        time.sleep(0.25)
        alive.touch()
    assert running.process.poll() is None
    fill(guest)
    guest.end()
    assert running.wait().status == 0


def test_a_second_signal_changes_nothing(guest: Guest) -> None:
    fill(guest)
    interrupt(guest, signals=2)


def test_a_killed_runner_leaves_what_it_kept_now_and_then(make_guest: Callable[[str], Guest]) -> None:
    whole, killed = make_guest("whole"), make_guest("killed")
    fill(whole)
    assert whole.run(batch_size=2).status == 0
    fill(killed)
    running = killed.start({"wait_at": "9.png"}, batch_size=2, part_every=0)
    wait_for(killed.root / "cache" / "waiting")
    running.process.kill()
    running.wait()
    assert killed.outputs == ["00000.part.npz"]
    kept = killed.shard(0, part=True)["image_file"].tolist()
    assert kept == FILES[: len(kept)]
    assert kept, "all but those that were being finished"
    (killed.root / "cache" / "go").touch()
    outcome = killed.run(batch_size=2)
    assert outcome.one("shard_started")["reused"] == len(kept) - len(kept) % 2
    assert killed.outputs == ["00000.npz"]
    assert (killed.root / "out" / "00000.npz").read_bytes() == (whole.root / "out" / "00000.npz").read_bytes()


def test_a_shard_is_not_kept_before_its_time(guest: Guest) -> None:
    fill(guest)
    running = guest.start({"wait_at": "9.png"}, batch_size=2)
    wait_for(guest.root / "cache" / "waiting")
    running.process.kill()
    running.wait()
    assert guest.outputs == []
