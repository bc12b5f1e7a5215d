"""A runner that is told to stop, or left alone, leaves nothing half-done and nothing to be done twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tests.contract.harness import Guest, levels

FILES = [f"{at}.png" for at in range(11)]


def fill(guest: Guest) -> None:
    for at, file in enumerate(FILES):
        guest.save(file, levels(10 + at, 200 - at))
    guest.put(0, FILES)


def interrupt(guest: Guest) -> list[str]:
    """Run until a few batches are through and stop; the files of the part left behind."""
    running = guest.start({"sleep": 0.1}, batch_size=2)
    running.until("progress")
    time.sleep(0.15)
    outcome = running.terminate()
    assert (outcome.status, outcome.story[-1], outcome.one("bye")["reason"]) == (143, "bye", "stopped")
    assert guest.outputs == ["00000.part.npz"]
    files: list[str] = guest.shard(0, part=True)["image_file"].tolist()
    assert files == FILES[: len(files)]
    return files


def test_an_interrupted_shard_ends_in_the_same_bytes(make_guest: Callable[[str], Guest]) -> None:
    whole, stopped = make_guest("whole"), make_guest("stopped")
    fill(whole)
    assert whole.run(batch_size=2).status == 0
    fill(stopped)
    kept = interrupt(stopped)
    assert 2 <= len(kept) < len(FILES)
    assert len(kept) % 2 == 0
    before = len(stopped.batches)
    outcome = stopped.run(batch_size=2)
    assert outcome.status == 0
    assert outcome.one("shard_started")["reused"] == len(kept)
    assert sum(stopped.batches[before:], []) == FILES[len(kept) :]
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


def test_a_part_that_does_not_fit_is_predicted_again(make_guest: Callable[[str], Guest]) -> None:
    guest = make_guest("guest")
    fill(guest)
    kept = interrupt(guest)
    part = guest.root / "out" / "00000.part.npz"
    sound = part.read_bytes()
    larger = 3 if len(kept) % 3 else 4
    cases = {
        "another plan": (sound, {"plan": "sha256:2"}, 0),
        "cut short": (sound[: len(sound) // 2], {}, 0),
        "garbage": (b"PK\x03\x04 garbage", {}, 0),
        "empty": (b"", {}, 0),
        "another batch size": (sound, {"batch_size": larger}, len(kept) - len(kept) % larger),
    }
    for name, (content, changes, reused) in cases.items():
        part.write_bytes(content)
        outcome = guest.run(**{"batch_size": 2, **changes})
        assert (outcome.status, outcome.one("shard_started")["reused"]) == (0, reused), name
        assert guest.shard(0)["image_file"].tolist() == FILES
        assert guest.outputs == ["00000.npz"]


def test_being_stopped_while_loading_takes_no_time(guest: Guest) -> None:
    running = guest.start({"load": "sleep"})
    while not (guest.root / "cache" / "loading").exists():
        time.sleep(0.01)
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
    running = guest.start(alive_timeout=1.3)
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
    running = guest.start({"sleep": 0.2}, batch_size=2)
    running.until("progress")
    running.process.terminate()
    outcome = running.terminate()
    assert (outcome.status, guest.outputs) == (143, ["00000.part.npz"])
    assert np.all(guest.shard(0, part=True)["status"] == 0)
