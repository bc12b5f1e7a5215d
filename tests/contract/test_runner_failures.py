"""What goes wrong on one image costs that image alone, and what goes wrong for good says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.harness import Guest, every_python, levels

PREDICTOR = Path(__file__).parent / "stacks" / "levels" / "predictor.py"


def line_of(text: str) -> int:
    """The line of the predictor that has this text."""
    return next(number for number, line in enumerate(PREDICTOR.read_text().splitlines(), 1) if text in line)


def save_all(guest: Guest, *files: str) -> list[str]:
    return [guest.save(file, levels(100, 100 + at)) for at, file in enumerate(files)]


def assert_others_are_there(guest: Guest, files: list[str], failed: set[str]) -> None:
    shard = guest.shard(0)
    assert shard["image_file"].tolist() == files
    assert shard["status"].tolist() == [int(file in failed) for file in files]
    assert [bool(reason) for reason in shard["error"].tolist()] == [file in failed for file in files]
    counts = (shard["offsets"][1:] - shard["offsets"][:-1]).tolist()
    assert counts == [0 if file in failed else len({100, 100 + at}) for at, file in enumerate(files)]


@every_python
@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_bad_image_costs_no_other(guest: Guest, batch_size: int) -> None:
    files = save_all(
        guest, "a.png", "raises.png", "c.png", "leaves.png", "e.png", "late.png", "g.png", "cut.png", "i.png"
    )
    (guest.root / "data" / "cut.png").write_bytes(b"\x89PNG")
    settings = {"predict": {"raises.png": "raise", "leaves.png": "exit"}, "finish": {"late.png": "raise"}}
    guest.put(0, files)
    outcome = guest.run(settings, batch_size=batch_size)
    assert outcome.status == 0
    assert outcome.errors == {
        "raises.png": f"ValueError: cannot broadcast (predictor.py:{line_of('raise ValueError(')})",
        "leaves.png": f"SystemExit: 3 (predictor.py:{line_of('raise SystemExit(3)')})",
        "late.png": f"ValueError: cannot broadcast (predictor.py:{line_of('raise ValueError(')})",
        "cut.png": "not an image, or of a kind that Pillow cannot read",
    }
    assert_others_are_there(guest, files, set(outcome.errors))
    singles = [[file] for file in files if file != "cut.png"]
    assert guest.batches == (singles if batch_size == 1 else [files[:4], *singles[:4], [*files[4:7]], ["i.png"]])
    assert "Traceback" in outcome.log
    assert guest.shard(0)["image_size"].tolist()[1] == [12, 16]


@every_python
def test_output_that_is_wrong_fails_its_image_with_the_reason(guest: Guest) -> None:
    signs = {
        "boxes of another shape": "boxes of shape (4, 2), expected (2, 4)",
        "NaN in boxes": "boxes that are not finite",
        "a class outside": "class 4, which the stack does not map",
        "classes that are fractions": "not whole numbers",
        "scores over one": "scores outside [0, 1]",
        "NaN in scores": "scores outside [0, 1]",
        "scores in two dimensions": "scores of shape (1, 2)",
        "masks of another size": "a mask of shape (11, 16) for an image of (12, 16)",
        "masks of probabilities": "a mask of float64",
        "too few masks": "1 masks for 2 scores",
    }
    files = [guest.save("good.png", levels(1, 4))]
    files += [guest.save(f"{at}.png", levels(1, 4)) for at in range(len(signs))]
    guest.put(0, files)
    outcome = guest.run({"spoil": dict(zip(files[1:], signs, strict=True))})
    assert outcome.status == 0
    assert list(outcome.errors) == files[1:]
    for file, sign in zip(files[1:], signs.values(), strict=True):
        assert sign in outcome.errors[file]
    assert guest.shard(0)["offsets"].tolist() == [0, 2] + [2] * len(signs)


def test_memory_that_runs_out_halves_the_batch_for_good(guest: Guest) -> None:
    files = save_all(guest, *(f"{at}.png" for at in range(9)))
    guest.put(0, files)
    outcome = guest.run({"memory": 1})
    assert (outcome.status, outcome.errors) == (0, {})
    assert guest.batches == [files[:4], files[:2], *[[file] for file in files]]
    assert [event["message"] for event in outcome.named("notice")] == [
        "out of memory: batches of 2 from now on",
        "out of memory: batches of 1 from now on",
    ]
    assert_others_are_there(guest, files, set())


def test_memory_that_is_too_small_for_one_image_fails_the_image(guest: Guest) -> None:
    guest.put(0, save_all(guest, "a.png", "b.png"))
    outcome = guest.run({"memory": 0})
    assert outcome.status == 0
    assert all("CUDA out of memory" in reason for reason in outcome.errors.values())
    assert len(outcome.errors) == 2


def test_too_few_results_for_a_batch_are_not_guessed_at(guest: Guest) -> None:
    files = save_all(guest, "a.png", "b.png", "c.png")
    guest.put(0, files)
    outcome = guest.run({"short": True})
    assert (outcome.status, outcome.errors) == (0, {})
    assert guest.batches == [files, *[[file] for file in files]]


@every_python
def test_a_gpu_is_tried_before_anything_is_loaded_and_the_cpu_is_no_way_out(guest: Guest) -> None:
    guest.put(0, save_all(guest, "a.png"))
    outcome = guest.run(device="cuda")
    failure = outcome.one("failure")
    assert (outcome.status, failure["category"], outcome.story) == (4, "device", ["hello", "loading", "failure", "bye"])
    assert "--device cpu" in failure["hint"]
    assert not (guest.root / "cache" / "loading").exists()
    assert guest.outputs == []


@pytest.mark.parametrize("stage", ["predict", "finish"])
def test_a_lost_device_ends_the_worker_and_keeps_what_was_done(guest: Guest, stage: str) -> None:
    files = save_all(guest, *(f"{at}.png" for at in range(6)))
    guest.put(0, files)
    outcome = guest.run({stage: {"4.png": "device"}}, batch_size=2)
    assert (outcome.status, outcome.one("failure")["category"], outcome.story[-1]) == (4, "device", "bye")
    assert "illegal memory access" in outcome.one("failure")["message"]
    assert outcome.errors == {}
    assert guest.outputs == ["00000.part.npz"]
    assert guest.shard(0, part=True)["image_file"].tolist() == files[:4]


def test_a_careful_shard_tells_what_a_worker_died_of(guest: Guest) -> None:
    files = save_all(guest, *(f"{at}.png" for at in range(7)))
    settings = {"predict": {"2.png": "die"}}
    guest.put(0, files, careful=True)
    died = guest.run(settings, batch_size=2)
    assert died.status == 7
    assert [event["indices"] for event in died.named("batch")] == [[0, 1], [2, 3]]
    (guest.root / "cache" / "batches.jsonl").unlink()
    guest.put(0, files, careful=True, alone=[2, 3])
    died = guest.run(settings, batch_size=2)
    assert died.status == 7
    assert [event["indices"] for event in died.named("batch")] == [[0, 1], [2]]
    guest.put(0, files, careful=True, alone=[3], skip={2: "the worker died of it three times"})
    outcome = guest.run(settings, batch_size=2)
    assert outcome.status == 0
    assert outcome.errors == {"2.png": "the worker died of it three times"}
    assert [event["indices"] for event in outcome.named("batch")] == [[0, 1], [3], [4, 5], [6]]
    assert_others_are_there(guest, files, {"2.png"})


def test_shards_without_work_are_written_all_the_same(guest: Guest) -> None:
    files = save_all(guest, "a.png", "b.png")
    guest.put(0, [])
    guest.put(1, files, skip={100: "one", 101: "two " * 200})
    guest.put(2, ["gone.png", "gone too.png"])
    outcome = guest.run()
    assert outcome.status == 0
    assert [event["shard"] for event in outcome.named("shard_done")] == [0, 1, 2]
    assert [len(guest.shard(number)["status"]) for number in range(3)] == [0, 2, 2]
    assert guest.shard(1)["error"].tolist() == ["one", ("two " * 200)[:300]]
    assert guest.batches == []


@every_python
@pytest.mark.parametrize("settings", [{}, {"extras": True}])
def test_a_shard_without_detections_or_with_nothing_but_failures_keeps_its_dtypes(
    guest: Guest, settings: dict[str, Any]
) -> None:
    columns = 2 if settings else 0
    guest.put(0, [guest.save("black.png", levels()), guest.save("too.png", levels())])
    guest.put(1, ["gone.png"])
    guest.put(2, [guest.save("bars.png", levels(5, 9, 250))])
    outcome = guest.run(settings, attributes=columns, image_scores=bool(settings))
    assert outcome.status == 0
    for number, images, instances in ((0, 2, 0), (1, 1, 0), (2, 1, 3)):
        shard = guest.shard(number)
        expected = {
            "image_file": ((images,), "U"),
            "image_size": ((images, 2), "int32"),
            "status": ((images,), "uint8"),
            "error": ((images,), "U"),
            "offsets": ((images + 1,), "int64"),
            "boxes": ((instances, 4), "float32"),
            "classes": ((instances,), "int32"),
            "scores": ((instances,), "float32"),
            "image_sha256": ((images, 32), "uint8"),
            "meta": ((), "U"),
        }
        if "masks" in shard:  # neither there nor missed where no image was predicted
            expected |= {"masks": (shard["masks"].shape, "uint8"), "mask_offsets": ((instances + 1,), "int64")}
            assert shard["mask_offsets"][-1] == len(shard["masks"])
        if settings:
            expected |= {"attributes": ((instances, 2), "float32"), "image_scores": ((images,), "float32")}
        found = {
            name: (array.shape, "U" if array.dtype.kind == "U" else str(array.dtype)) for name, array in shard.items()
        }
        assert found == expected
        meta = {"format": "orch-shard/2", "shard": number, "plan": "sha256:1", "images": images}
        assert json.loads(str(shard["meta"])) == meta
