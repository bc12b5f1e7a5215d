"""What a runner does with jobs it cannot do, and the story its events tell of one it can."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.harness import RUNNER, Guest, every_python, levels

Change = Callable[[dict[str, Any]], Any]


def test_another_contract_is_refused_on_the_first_line(guest: Guest) -> None:
    outcome = guest.run(contract="orch-job/1")
    assert outcome.status == 2
    assert outcome.story == ["failure", "bye"]
    assert outcome.events[0]["category"] == "contract"
    assert "orch-job/1" in outcome.events[0]["message"]
    assert "orch-job/2" in outcome.events[0]["message"]


REFUSED: dict[str, tuple[Change, str]] = {
    "a field is missing": (lambda job: job.pop("plan"), "plan"),
    "a field of the model is missing": (lambda job: job["model"].pop("settings"), "settings"),
    "a path is missing": (lambda job: job["paths"].pop("queue"), "queue"),
    "no image fits a batch": (lambda job: job.update(batch_size=0), "batch_size"),
    "a number is a word": (lambda job: job.update(threads="many"), "many"),
    "a negative limit": (lambda job: job.update(max_detections=-1), "max_detections"),
    "an unknown EXIF policy": (lambda job: job.update(exif="maybe"), "maybe"),
    "an unknown box order": (lambda job: job["native"].update(box_order="xywh"), "xywh"),
    "weights of the wrong kind": (lambda job: job["model"].update(weights=[]), "kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_job_is_refused_by_the_field_that_is_wrong(guest: Guest, name: str) -> None:
    change, sign = REFUSED[name]
    job = guest.job({})
    change(job)
    outcome = guest.start_raw(json.dumps(job)).wait()
    assert (outcome.status, outcome.story) == (2, ["failure", "bye"])
    assert sign in outcome.one("failure")["message"]


@pytest.mark.parametrize("text", ["", "[]", "{", '"orch-job/2"'])
def test_what_is_no_job_is_refused(guest: Guest, text: str) -> None:
    outcome = guest.start_raw(text).wait()
    assert (outcome.status, outcome.story) == (2, ["failure", "bye"])


@every_python
def test_the_events_tell_the_whole_story_and_stdout_holds_nothing_else(guest: Guest) -> None:
    files = [guest.save(f"{at}.png", levels(100 + at)) for at in range(3)]
    guest.put(0, files)
    guest.put(7, [files[0], "gone.png"])
    outcome = guest.run(batch_size=2)
    assert outcome.status == 0
    assert sorted(outcome.story[:3]) == ["hello", "loading", "ready"]
    assert sorted(outcome.story[3:-1]) == sorted(["shard_started", "shard_done"] * 2 + ["image_failed"])
    assert outcome.story[-1] == "bye"
    hello, ready, bye = outcome.one("hello"), outcome.one("ready"), outcome.one("bye")
    assert set(hello) == {"event", "seq", "time", "contract", "runner", "python", "pid"}
    assert (hello["contract"], outcome.one("loading")["model"]) == ("orch-job/2", "levels")
    assert (ready["device"], ready["batch_size"], bye["reason"]) == ("cpu", 2, "all done")
    assert {"python", "numpy", "PIL"} <= set(ready["versions"])
    assert [(event["shard"], event["images"], event["reused"]) for event in outcome.named("shard_started")] == [
        (0, 3, 0),
        (7, 2, 0),
    ]
    done = {
        event["shard"]: (event["images"], event["failed"], event["instances"]) for event in outcome.named("shard_done")
    }
    assert done == {0: (3, 0, 3), 7: (2, 1, 1)}
    failed = outcome.one("image_failed")
    assert (failed["shard"], failed["index"], failed["file"]) == (7, 701, "gone.png")
    assert outcome.named("heartbeat")[0]["rss_mb"] > 1
    assert all(noise in outcome.log for noise in ("noise from Python", "noise from C", "noise from a child"))
    assert guest.outputs == ["00000.npz", "00007.npz"]


def test_a_batch_is_never_larger_than_the_predictor_takes(guest: Guest) -> None:
    files = [guest.save(f"{at}.png", levels(9)) for at in range(6)]
    guest.put(0, files)
    outcome = guest.run(batch_size=64)
    assert outcome.one("ready")["batch_size"] == 4
    assert guest.batches == [files[:4], files[4:]]


@pytest.mark.parametrize(
    ("settings", "sign"),
    [({"load": "raise"}, "no such layer: backbone.stem"), ({"load": "exit"}, "upstream gave up")],
)
def test_a_model_that_does_not_load_says_why(guest: Guest, settings: dict[str, Any], sign: str) -> None:
    outcome = guest.run(settings)
    assert (outcome.status, outcome.story) == (3, ["hello", "loading", "failure", "bye"])
    assert outcome.one("failure")["category"] == "load"
    assert sign in outcome.one("failure")["message"]


def test_a_model_that_does_not_fit_into_memory_is_a_failure_of_its_own_kind(guest: Guest) -> None:
    outcome = guest.run({"load": "crowded"})
    assert (outcome.status, outcome.one("failure")["category"]) == (3, "memory")
    assert "CUDA out of memory" in outcome.one("failure")["message"]


@pytest.mark.parametrize(
    ("changes", "environment", "sign"),
    [
        ({"predictor": "predictor.py:Other"}, {}, "no class Other"),
        ({"predictor": "other.py:Predictor"}, {}, "no predictor at"),
        ({}, {"LEVELS_COLOR": "HSV"}, "HSV"),
        ({}, {"LEVELS_DECODER": "tea-leaves"}, "tea-leaves"),
    ],
)
def test_a_stack_that_does_not_fit_is_named(
    guest: Guest, changes: dict[str, Any], environment: dict[str, str], sign: str
) -> None:
    guest.environment.update(environment)
    outcome = guest.run(**changes)
    assert (outcome.status, outcome.one("failure")["category"]) == (3, "load")
    assert sign in outcome.one("failure")["message"]


def model_with(guest: Guest, **weights: tuple[str, str | None, str | None]) -> dict[str, Any]:
    """The model of a job with these weights, each given as file, sha256 and package."""
    files = {key: dict(zip(("file", "sha256", "package"), value, strict=True)) for key, value in weights.items()}
    return {**guest.job({"load": "weights"})["model"], "weights": files}


def test_weights_are_found_in_their_folder_and_in_packages(guest: Guest) -> None:
    package = guest.root / "site" / "somebodys_model"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "net.onnx").write_bytes(b"weights")
    (guest.root / "weights" / "net.pth").write_bytes(b"")
    guest.environment["PYTHONPATH"] = os.pathsep.join([str(RUNNER), str(package.parent)])
    digest = hashlib.sha256(b"weights").hexdigest()
    good = {"one": ("net.pth", None, None), "two": ("net.onnx", digest, "somebodys_model")}
    assert guest.run(model=model_with(guest, **good)).status == 0
    found = json.loads((guest.root / "cache" / "weights.json").read_text())
    assert found == {"one": str(guest.root / "weights" / "net.pth"), "two": str(package / "net.onnx")}
    bad = {
        "not the expected file": ("net.onnx", "0" * 64, "somebodys_model"),
        "missing file other.pth": ("other.pth", None, None),
        "nobodys.model is not installed": ("net.onnx", None, "nobodys.model"),
    }
    for sign, weight in bad.items():
        outcome = guest.run(model=model_with(guest, main=weight))
        assert (outcome.status, outcome.one("failure")["category"]) == (3, "weights")
        assert sign in outcome.one("failure")["message"]


def test_an_output_folder_that_cannot_be_written_is_found_out_before_loading(guest: Guest) -> None:
    guest.put(0, [guest.save("a.png", levels(9))])
    (guest.root / "out").rmdir()
    outcome = guest.run()
    assert (outcome.status, outcome.story) == (5, ["hello", "failure", "bye"])
    assert (outcome.one("failure")["category"], "writable" in outcome.one("failure")["hint"]) == ("output", True)


def test_an_output_folder_that_goes_away_ends_the_worker(guest: Guest) -> None:
    guest.put(0, [guest.save("a.png", levels(9))])
    running = guest.start()
    running.until("shard_done")
    (guest.root / "out" / "00000.npz").unlink()
    (guest.root / "out").rmdir()
    guest.put(1, ["a.png"])
    guest.end()
    outcome = running.wait()
    assert (outcome.status, outcome.one("failure")["category"]) == (5, "output")
    assert "00001.npz" in outcome.one("failure")["message"]


def test_shards_may_come_while_the_runner_works_and_none_may_come_at_all(
    guest: Guest, make_guest: Callable[[str], Guest]
) -> None:
    running = guest.start()
    running.until("ready")
    file = guest.save("a.png", levels(50))
    for number in (0, 3):
        guest.put(number, [file])
        running.until("shard_done", times=1 + (number > 0))
    guest.end()
    assert running.wait().status == 0
    assert guest.outputs == ["00000.npz", "00003.npz"]
    idle = make_guest("idle").run()
    assert (idle.status, idle.story) == (0, ["hello", "loading", "ready", "bye"])


def test_a_shard_that_cannot_be_read_is_refused_and_costs_no_other(guest: Guest) -> None:
    guest.put(0, [guest.save("a.png", levels(50))])
    running = guest.start()
    running.until("shard_done")
    (guest.root / "queue" / "00001.json").write_text('{"shard": 1}')
    outcome = running.wait()
    assert (outcome.status, outcome.one("failure")["category"]) == (2, "contract")
    assert "00001.json" in outcome.one("failure")["message"]
    assert guest.outputs == ["00000.npz"]
