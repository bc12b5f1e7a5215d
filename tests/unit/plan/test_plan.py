"""The run directory: resumed by the same request, refused to any other, and never begun by a failure."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.weights import Stored
from orchestrator.errors import MachineError, OrchError, RunError, UsageError
from orchestrator.inputs.collect import collect_inputs, read_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan.changes import RunChanged, _Comparison, compare_run
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import Request
from orchestrator.plan.run_directory import open_run, read_run_document, record_plan
from orchestrator.plan.shards import default_shard_size
from orchestrator.runtimes.base import Prepared
from orchestrator.system.files import write_json
from tests.unit.stack_samples import model_entry
from tests.unit.system.test_locks import another_process_holds

REQUEST = Request(
    model="tiny-model", images=("/in",), image_root=None, runtime="venv", variant="cpu", device="cpu", exif="apply",
    score_threshold=None, max_detections=None, batch_size=1, settings={"grey": 200, "share": 0.5}, shard_size=None,
)  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "runs" / "one")


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """A plan for the images that are in in/ now."""
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(b"x")

    def make(*, identity: str = "b1", sha256: str = "w1", predictor: str = "p1", **request: Any) -> Plan:
        entry = model_entry(tmp_path / "stack")
        prepared = Prepared(entry.stack, "cpu", "venv", identity, "/envs/e")
        weights = {"pth": Stored("pth", "w.pth", None, sha256)}
        inputs = collect_inputs([str(tmp_path / "in")], tmp_path / "unpacked")
        return Plan(replace(REQUEST, **request), entry, prepared, weights, inputs, 2, {"predictor": predictor})

    return make


def begin(paths: RunPaths, plan: Plan) -> None:
    """Begin a run, or resume it as a run does."""
    with open_run(paths, plan.request) as earlier:
        if earlier is not None:
            digests = {key: stored.sha256 for key, stored in plan.weights.items()}
            compare_run(paths, earlier, plan.inputs, plan.result_parts(), digests)
        record_plan(paths, plan, earlier, {"note": 1})


def refused(paths: RunPaths, request: Request = REQUEST) -> UsageError:
    with pytest.raises(UsageError) as caught, open_run(paths, request):
        pass
    return caught.value


def test_a_plan_cuts_images_into_shards(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    assert list(plan.shards) == [0, 1, 2]
    assert [[image.file for image in plan.images_of(shard)] for shard in plan.shards] == [
        ["0.jpg", "1.jpg"], ["2.jpg", "3.jpg"], ["4.jpg"]
    ]  # fmt: skip
    assert [default_shard_size(count) for count in (1, 16, 17, 100, 512, 1000, 8192)] == [1, 1, 2, 4, 4, 8, 64]
    assert [default_shard_size(count, batch_size=4) for count in (1, 129, 1000, 2**18)] == [4, 4, 8, 64]
    assert default_shard_size(10, batch_size=100) == 100


def test_a_plan_knows_the_size_of_its_shards(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan()
    (tmp_path / "in" / "3.jpg").write_bytes(b"xxx")
    assert [plan.size_of(shard) for shard in plan.shards] == [2, 2, 1]
    assert [make_plan().bytes_of(shard) for shard in plan.shards] == [2, 4, 1]


def test_shards_are_small_until_there_are_too_many_of_them() -> None:
    assert [default_shard_size(count) for count in (2**18, 2**18 + 1, 10**6, 10**7)] == [64, 128, 256, 2496]
    assert all(math.ceil(count / default_shard_size(count)) <= 4096 for count in range(1, 10**8, 99_991))


def test_the_digest_follows_what_the_predictions_depend_on(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan()
    assert make_plan().digest() == plan.digest()
    assert make_plan(identity="b2").digest() == plan.digest(), "a build whose predictions are the same"
    assert make_plan(images=("/elsewhere",)).digest() == plan.digest(), "the same images by another name"
    assert plan.run_id() == plan.digest()[:12]
    others = [
        make_plan(predictor="p2"), make_plan(sha256="w2"), make_plan(exif="ignore"), make_plan(batch_size=2),
        make_plan(settings={"grey": 201}), make_plan(score_threshold=0.1), replace(plan, shard_size=3),
    ]  # fmt: skip
    (tmp_path / "in" / "5.jpg").write_bytes(b"x")
    assert len({one.digest() for one in (plan, make_plan(), *others)}) == 9


def test_a_request_has_a_short_stable_name() -> None:
    assert re.fullmatch("[0-9a-f]{8}", REQUEST.short_digest("auto"))
    assert REQUEST.short_digest("auto") == replace(REQUEST, runtime="venv").short_digest("auto")
    assert REQUEST.short_digest("auto") != REQUEST.short_digest("venv")
    assert REQUEST.short_digest("auto") != replace(REQUEST, exif="ignore").short_digest("auto")
    assert REQUEST.as_json()["images"] == ["/in"]


def test_a_run_is_recorded(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    begin(paths, plan)
    recorded = json.loads(paths.run_json.read_text())
    assert recorded["request"] == REQUEST.as_json()
    assert (recorded["plan"], recorded["shards"], recorded["shard_size"], recorded["note"]) == (plan.digest(), 3, 2, 1)
    assert recorded["resolved"] == json.loads(json.dumps(plan.predictions_meta()))
    assert tuple(read_inputs(paths.inputs)) == plan.inputs.images
    assert paths.shards.is_dir()


def test_what_travels_with_the_predictions_names_no_times_and_no_places(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    meta = plan.predictions_meta()
    assert meta["categories"] == [{"id": 1, "name": "one"}, {"id": 7, "name": "seven"}]
    edges = {"box_edges": "exclusive", "class_type": "int64"}
    assert meta["native"] == {"box_order": "xyxy", "class_base": 0, "class_map": [1, 7], **edges}
    assert meta["inputs"] == {"count": 5, "digest": plan.inputs.digest()}
    assert str(plan.inputs.roots[0]) not in json.dumps(meta)


def test_the_same_request_resumes(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    begin(paths, plan)
    before = paths.run_json.read_text()
    with open_run(paths, REQUEST) as earlier:
        assert earlier is not None
        record_plan(paths, make_plan(), earlier, {"note": 2})
    assert paths.run_json.read_text() == before


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("model", "other", "model was tiny-model, now other"),
        ("images", ("/in", "/more"), "images was ['/in'], now ['/in', '/more']"),
        ("score_threshold", 0.5, "score_threshold was None, now 0.5"),
        ("settings", {"grey": 1}, "settings was {'grey': 200, 'share': 0.5}, now {'grey': 1}"),
        ("shard_size", 3, "shard_size was None, now 3"),
    ],
)  # fmt: skip
def test_another_request_is_refused(
    paths: RunPaths, make_plan: Callable[..., Plan], field: str, value: Any, why: str
) -> None:
    begin(paths, make_plan())
    error = refused(paths, replace(REQUEST, **{field: value}))
    assert error.message == f"{paths.root} belongs to another request"
    assert error.why == why
    assert error.hint == f"choose another folder with --out, or give the same {field} to resume"


def changed(paths: RunPaths, plan: Plan) -> UsageError:
    with pytest.raises(RunChanged) as caught:
        begin(paths, plan)
    return caught.value


def test_changed_images_are_refused(paths: RunPaths, make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    begin(paths, make_plan())
    (tmp_path / "in" / "0.jpg").unlink()
    (tmp_path / "in" / "1.jpg").write_bytes(b"xx")
    os.utime(tmp_path / "in" / "2.jpg", (1, 1))  # not predicted yet: nothing old can be told of it
    (tmp_path / "in" / "9.jpg").write_bytes(b"x")
    error = changed(paths, make_plan())
    assert error.message == f"{paths.root} holds predictions of something else"
    assert error.why == "images: 1 new (9.jpg), 1 gone (0.jpg), 1 changed (1.jpg)"
    assert str(error.hint).startswith("--update predicts what changed")
    for number in range(10, 20):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(b"x")
    assert "11 new (10.jpg, 11.jpg, 12.jpg, 13.jpg, 14.jpg, …)" in str(changed(paths, make_plan()).why)


def test_images_are_compared_by_size_time_and_readability(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    begin(paths, plan)
    is_same, image = _Comparison(paths, 2, plan.inputs).is_same, plan.inputs.images[0]
    later, larger, unreadable = replace(image, mtime_ns=1), replace(image, size=2), replace(image, error="damaged")
    assert [is_same(image, now) for now in (image, later, larger, unreadable)] == [True, True, False, False]
    assert is_same(unreadable, unreadable)
    assert not is_same(unreadable, replace(unreadable, mtime_ns=1)), "nobody knows what was damaged"


def test_a_changed_stack_or_weights_are_refused(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    begin(paths, make_plan())
    assert changed(paths, make_plan(predictor="p2")).why == "other predictor"
    assert changed(paths, make_plan(sha256="w2")).why == "other weights pth (sha256 w1, now w2)"
    begin(paths, make_plan(identity="b2"))  # what the predictions do not depend on may change


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"request": {}}', '{"format": "orch-run/1"}'])
def test_a_run_json_that_cannot_be_read_is_refused(paths: RunPaths, text: str) -> None:
    paths.root.mkdir(parents=True)
    paths.run_json.write_text(text)
    with pytest.raises(RunError) as caught, open_run(paths, REQUEST):
        raise AssertionError
    assert caught.value.message == f"{paths.run_json} is damaged"
    assert paths.run_json.read_text() == text


def test_counts_of_a_run_are_not_negative(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    begin(paths, make_plan())
    document = read_run_document(paths)
    write_json(paths.run_json, {**document, "shards": 0})
    assert read_run_document(paths)["shards"] == 0
    for name, value in (("shards", -1), ("shard_size", 0), ("shard_size", -1), ("shards", True)):
        write_json(paths.run_json, {**document, name: value})
        with pytest.raises(RunError) as caught:
            read_run_document(paths)
        assert caught.value.why == f"ValueError: '{name}' is {value}"


def test_a_run_of_another_format_is_refused(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    begin(paths, make_plan())
    paths.run_json.write_text(paths.run_json.read_text().replace("orch-run/1", "orch-run/9"))
    assert refused(paths).why == "its format is orch-run/9; this version writes orch-run/1"


def test_a_folder_of_something_else_is_refused_and_left_alone(paths: RunPaths) -> None:
    paths.root.mkdir(parents=True)
    (paths.root / "thesis.tex").write_text("x")
    assert refused(paths).message == f"{paths.root} is not empty and not a run directory"
    assert [path.name for path in paths.root.iterdir()] == ["thesis.tex"]


def test_a_full_disk_before_run_json_leaves_nothing(
    paths: RunPaths, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.plan.run_directory.write_json", fill)
        with pytest.raises(MachineError) as caught:
            begin(paths, make_plan())
    assert caught.value.message == f"cannot use {paths.run_json}"
    assert str(caught.value.hint).startswith("free disk space")
    assert not paths.root.exists()


def test_what_a_power_cut_left_before_run_json_is_begun_again(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    for folder in (paths.shards, paths.logs, paths.jobs):
        folder.mkdir(parents=True)
    paths.inputs.write_text("{}")
    for name in (".inputs.jsonl.123.tmp", ".run.json.123.tmp"):
        (paths.root / name).write_text("{")
    begin(paths, make_plan())
    assert paths.run_json.is_file()
    assert not list(paths.root.glob("*.tmp"))


def test_shards_without_run_json_are_left_alone(paths: RunPaths) -> None:
    paths.shards.mkdir(parents=True)
    paths.shard(0).write_bytes(b"x")
    assert "is not empty and not a run directory" in refused(paths).message
    assert paths.shard(0).read_bytes() == b"x"


def test_a_file_in_the_place_of_a_folder_is_refused(paths: RunPaths) -> None:
    paths.root.parent.mkdir()
    paths.root.write_text("x")
    assert refused(paths).message == f"{paths.root} is a file, not a folder to write a run into"
    error = refused(RunPaths(paths.root / "below"))
    assert (error.message, error.why) == (f"cannot write to {paths.root / 'below'}", "Not a directory")


def test_an_empty_folder_is_welcome(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    paths.root.mkdir(parents=True)
    begin(paths, make_plan())
    assert paths.run_json.is_file()


def test_one_process_at_a_time(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    begin(paths, make_plan())
    with another_process_holds(paths.lock):
        assert refused(paths).message == f"another orch is writing to {paths.root}"
    with open_run(paths, REQUEST) as earlier:
        assert earlier is not None


def test_a_process_that_only_just_began_keeps_others_out(paths: RunPaths) -> None:
    with another_process_holds(paths.lock):
        assert refused(paths).message == f"another orch is writing to {paths.root}"
        assert paths.lock.exists()


def interrupted_in(folder: Path) -> None:
    folder.mkdir(parents=True)
    raise KeyboardInterrupt


@pytest.mark.parametrize("there_already", [True, False])
def test_a_start_that_fails_leaves_no_trace(paths: RunPaths, tmp_path: Path, there_already: bool) -> None:
    if there_already:
        paths.root.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt), open_run(paths, REQUEST):
        interrupted_in(paths.unpacked / "0")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_began_stays(paths: RunPaths, make_plan: Callable[..., Plan]) -> None:
    begin(paths, make_plan())
    with pytest.raises(KeyboardInterrupt), open_run(paths, REQUEST):
        interrupted_in(paths.shards / "0")
    assert paths.run_json.is_file()


def test_one_image_less_is_one_change_among_many(
    paths: RunPaths, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    for number in range(200):
        (tmp_path / "in" / f"x{number:03}.jpg").write_bytes(b"x")
    begin(paths, make_plan())
    (tmp_path / "in" / "0.jpg").unlink()
    assert changed(paths, make_plan()).why == "images: 1 gone (0.jpg)"


def as_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


INPUT_DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "a FIFO": as_fifo,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "no JSON": lambda path: path.write_bytes(b"\xff\n"),
    "other fields": lambda path: path.write_text('{"index": 0}\n'),
    "a list": lambda path: path.write_text("[]\n"),
    "nested": lambda path: path.write_text("[" * 100_000 + "\n"),
}


@pytest.mark.parametrize("damage", INPUT_DAMAGES.values(), ids=INPUT_DAMAGES.keys())
def test_damaged_inputs_are_written_again_where_the_images_are_the_same(
    paths: RunPaths, make_plan: Callable[..., Plan], damage: Callable[[Path], object]
) -> None:
    plan = make_plan()
    begin(paths, plan)
    before = paths.inputs.read_bytes()
    damage(paths.inputs)
    begin(paths, make_plan())
    assert paths.inputs.read_bytes() == before


def test_damaged_inputs_of_other_images_are_named(
    paths: RunPaths, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    begin(paths, make_plan())
    paths.inputs.write_bytes(b"\xff\n")
    (tmp_path / "in" / "0.jpg").unlink()
    with pytest.raises(RunError, match=str(paths.inputs)):
        begin(paths, make_plan())


@pytest.mark.parametrize("name", ["run.json", ".lock"])
def test_a_fifo_in_place_of_a_file_of_the_run_is_named(
    paths: RunPaths, make_plan: Callable[..., Plan], name: str
) -> None:
    begin(paths, make_plan())
    as_fifo(paths.root / name)
    with pytest.raises(OrchError, match=r"run|one"), open_run(paths, REQUEST):
        raise AssertionError


@pytest.mark.parametrize("name", ["shards", "shards/masks", "masks", "logs", "jobs", "unpacked", "claims", "events"])
def test_a_run_whose_folder_is_a_link_is_refused(
    paths: RunPaths, make_plan: Callable[..., Plan], tmp_path: Path, name: str
) -> None:
    begin(paths, make_plan())
    (tmp_path / "mine").mkdir()
    folder = paths.root / name
    if folder.exists():
        folder.rmdir()
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match=str(folder)), open_run(paths, REQUEST):
        raise AssertionError
