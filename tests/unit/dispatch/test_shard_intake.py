"""What workers leave is copied, checked in full and only then counts; nothing they plant is followed or waited for."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.catalog.tasks import MANIPULATION
from orchestrator.dispatch import shard_intake
from orchestrator.dispatch.local import take_leftovers
from orchestrator.dispatch.shard_intake import ShardIntake, remove_job_folders
from orchestrator.errors import RunError
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.shards import missing_shards
from orchestrator.predictions.mask_files import CANVASES, PICTURES
from orchestrator.predictions.shard_check import ShardFault
from tests.unit.dispatch.intake_samples import HEIGHT, WIDTH, shard_of, write_shard
from tests.unit.dispatch.slurm_samples import make_plan

Arrays = dict[str, Any]


class Case:
    """A run of three shards of two images, and a worker's job folder with its out folder."""

    def __init__(self, folder: Path, **model: Any) -> None:
        self.plan: Plan = make_plan(folder, **model)
        self.paths = RunPaths(folder / "run")
        self.paths.shards.mkdir(parents=True)
        self.folder = self.paths.job("w0") / "out"
        self.folder.mkdir(parents=True)
        self.out = self.paths.out("w0")
        self.intake = ShardIntake(self.plan, self.paths)

    def write(self, number: int = 0, *, part: bool = False, images: int | None = None, **changed: Any) -> Path:
        return write_shard(self.folder, number, {**shard_of(self.plan, number, images), **changed}, part)

    def take(self, number: int = 0) -> None:
        self.intake.take(self.out, number, self.plan.images_of(number))

    def refused(self, number: int = 0) -> ShardFault:
        with pytest.raises(ShardFault) as caught:
            self.take(number)
        assert not self.paths.shard(number).exists()
        assert not list(self.paths.shards.glob(".*"))
        return caught.value


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A valid shard somewhere on the host, which no worker may have taken."""
    plan = make_plan(tmp_path)
    (tmp_path / "host").mkdir()
    return write_shard(tmp_path / "host", 0, shard_of(plan, 0))


def test_a_valid_shard_is_copied_checked_and_put_into_place(case: Case) -> None:
    source = case.write()
    content = source.read_bytes()
    taken = case.intake.take(case.out, 0, case.plan.images_of(0))
    assert taken is not None
    assert (taken.images, taken.failed, taken.instances) == (2, 0, 2)
    assert case.paths.shard(0).read_bytes() == content
    assert missing_shards(case.plan, case.paths) == [1, 2]
    assert list(case.folder.iterdir()) == [], "what was taken is not kept twice"
    assert case.intake.take(case.out, 0, case.plan.images_of(0)) is None, "it was taken before"


def spoil(name: str, *at: int, value: Any) -> Callable[[Arrays], Arrays]:
    """One value of an array changed."""

    def change(arrays: Arrays) -> Arrays:
        array = arrays[name].copy()
        array[at] = value
        return {name: array}

    return change


BY_IMAGE = {
    "a box that is not finite": spoil("boxes", 1, 0, value=np.nan),
    "a box outside": spoil("boxes", 1, 2, value=WIDTH + 5),
    "a box inside out": spoil("boxes", 1, 2, value=1),
    "an infinite score": spoil("scores", 1, value=np.inf),
    "a negative score": spoil("scores", 1, value=-0.5),
    "a class of no category": spoil("classes", 1, value=-5),
    "another size than the mask's": spoil("image_size", 1, 0, value=HEIGHT + 1),
    "a size of none": spoil("image_size", 1, value=0),
    "a status of its own": spoil("status", 1, value=7),
    "a failure without a reason": spoil("status", 1, value=1),
}


@pytest.mark.parametrize("change", BY_IMAGE.values(), ids=BY_IMAGE.keys())
def test_a_wrong_value_costs_its_image_alone(case: Case, change: Callable[[Arrays], Arrays]) -> None:
    case.write(**change(shard_of(case.plan, 0)))
    assert list(case.refused().images) == [1]


def test_more_or_lower_scores_than_were_asked_for_cost_their_image(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.plan = replace(case.plan, request=replace(case.plan.request, score_threshold=0.4, max_detections=1))
    case.intake = ShardIntake(case.plan, case.paths)
    case.write(**spoil("scores", 1, value=0.39)(shard_of(case.plan, 0)))
    assert list(case.refused().images) == [1]
    arrays = shard_of(case.plan, 0)
    case.write(offsets=np.array([0, 0, 2]), boxes=arrays["boxes"])
    assert list(case.refused().images) == [1]
    case.write()
    case.take()


def test_bytes_that_are_no_rle_cost_their_image(case: Case) -> None:
    arrays = shard_of(case.plan, 0)
    masks = arrays["masks"].copy()
    masks[arrays["mask_offsets"][1] :] = 200
    case.write(masks=masks)
    assert list(case.refused().images) == [1]


WHOLE: dict[str, Callable[[Arrays], Arrays]] = {
    "offsets that go back": spoil("offsets", 1, value=9),
    "doubles": lambda arrays: {"boxes": arrays["boxes"].astype(np.float64)},
    "an array of no schema": lambda arrays: {"extra": np.zeros(1)},
    "an array of another model": lambda arrays: {"attributes": np.zeros((2, 3), np.float32)},
    "scores per image of another model": lambda arrays: {"image_scores": np.zeros(2, np.float32)},
    "other images": lambda arrays: {"image_file": arrays["image_file"][::-1]},
    "names that are no text": lambda arrays: {"error": np.array([0x7FFFFFFF, 65], np.uint32).view("<U1")},
    "objects": lambda arrays: {"scores": np.array([{}, {}], object)},
    "meta of another shard": lambda arrays: {"meta": np.array(str(arrays["meta"]).replace('"shard": 0', '"shard": 1'))},
    "meta of no plan": lambda arrays: {"meta": np.array('{"format": "orch-shard/1"}')},
    "meta that is a list": lambda arrays: {"meta": np.array("[]")},
    "meta nested without end": lambda arrays: {"meta": np.array("[" * 100_000)},
}


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE.keys())
def test_a_wrong_structure_costs_the_shard(case: Case, change: Callable[[Arrays], Arrays]) -> None:
    arrays = shard_of(case.plan, 0)
    case.write(**change(arrays))
    assert case.refused().images == {}


def test_an_image_that_failed_with_its_reason_is_no_fault(case: Case) -> None:
    arrays = shard_of(case.plan, 0)
    case.write(
        status=np.array([0, 1], np.uint8), error=np.array(["", "broken"]), offsets=np.array([0, 1, 1]),
        **{name: arrays[name][:1] for name in ("boxes", "classes", "scores")},
        masks=arrays["masks"][: arrays["mask_offsets"][1]], mask_offsets=arrays["mask_offsets"][:2],
    )  # fmt: skip
    case.take()


def test_a_compressed_shard_is_refused_before_it_is_unpacked(case: Case) -> None:
    arrays = {**shard_of(case.plan, 0), "masks": np.zeros(50 << 20, np.uint8)}
    np.savez_compressed(case.folder / "00000.npz", **arrays)
    assert "more bytes" in case.refused().reason


def test_a_file_that_is_no_archive_is_refused(case: Case) -> None:
    (case.folder / "00000.npz").write_bytes(b"PK\x03\x04 and then nothing")
    case.refused()
    with zipfile.ZipFile(case.folder / "00001.npz", "w") as archive:
        archive.writestr("meta.npy", b"\x93NUMPY\x01\x00")
    case.refused(1)


def test_nothing_planted_is_followed_or_waited_for(case: Case, secret: Path) -> None:
    shard = case.folder / "00000.npz"
    shard.symlink_to(secret)
    case.refused()
    os.mkfifo(shard)
    case.refused()
    os.link(secret, shard)
    case.refused()
    (shard / "folder").mkdir(parents=True)
    case.refused()
    assert list(case.folder.iterdir()) == [], "what is left would keep the next worker from writing there"
    case.folder.rmdir()
    case.folder.symlink_to(secret.parent, target_is_directory=True)
    case.refused()
    assert secret.exists()
    assert secret.stat().st_nlink >= 1


def test_a_shard_larger_than_the_limit_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_intake, "SHARD_BYTES", 100)
    case.write()
    assert "100 at most" in case.refused().reason


def test_a_full_disk_is_the_runs_fault_not_the_shards(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    case.write()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match="cannot write") as caught:
        case.take()
    assert caught.value.why == "No space left on device"


# --- pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Case:
    made = Case(tmp_path, task=MANIPULATION)
    made.write()
    (made.folder / "masks" / "00000").mkdir(parents=True)
    for index in (0, 1):
        Image.new("L", (WIDTH, HEIGHT), 9).save(picture(made, index))
    return made


def picture(case: Case, index: int) -> Path:
    return case.folder / "masks" / "00000" / f"{index:08d}.png"


def test_pictures_come_with_their_shard(pictures: Case) -> None:
    pictures.take()
    taken = sorted(path.name for path in (pictures.paths.shards / "masks" / "00000").iterdir())
    assert taken == ["00000000.png", "00000001.png"]


@pytest.mark.parametrize(
    "content",
    [
        Image.new("RGB", (WIDTH, HEIGHT)),
        Image.new("L", (WIDTH + 1, HEIGHT)),
        Image.new("I;16", (WIDTH, HEIGHT)),
        b"",
        b"no picture",
        None,
    ],
    ids=["colours", "another size", "16 bit", "empty", "text", "missing"],
)
def test_a_wrong_picture_costs_its_image(pictures: Case, content: Image.Image | bytes | None) -> None:
    file = picture(pictures, 1)
    file.unlink()
    if isinstance(content, Image.Image):
        content.save(file)
    elif content is not None:
        file.write_bytes(content)
    assert list(pictures.refused().images) == [1]


def test_a_picture_cut_short_or_endless_costs_its_image(pictures: Case) -> None:
    whole = picture(pictures, 1).read_bytes()
    picture(pictures, 1).write_bytes(whole[:-20])
    assert list(pictures.refused().images) == [1]
    pictures.write()
    (pictures.folder / "masks" / "00000").mkdir(parents=True)
    picture(pictures, 0).write_bytes(whole)
    picture(pictures, 1).write_bytes(whole + bytes(1 << 20))
    assert list(pictures.refused().images) == [1]


def test_planted_pictures_are_not_followed(pictures: Case, tmp_path: Path) -> None:
    host = tmp_path / "host.png"
    Image.new("L", (WIDTH, HEIGHT), 3).save(host)
    picture(pictures, 1).unlink()
    picture(pictures, 1).symlink_to(host)
    assert list(pictures.refused().images) == [1]
    pictures.write()
    (tmp_path / "hosts" / "00000").mkdir(parents=True)
    for index in (0, 1):
        Image.new("L", (WIDTH, HEIGHT), 3).save(tmp_path / "hosts" / "00000" / f"{index:08d}.png")
    (pictures.folder / "masks").rmdir()
    (pictures.folder / "masks").symlink_to(tmp_path / "hosts")
    assert list(pictures.refused().images) == [0, 1]
    assert len(list((tmp_path / "hosts" / "00000").iterdir())) == 2
    assert host.exists()


# --- parts


def test_a_part_is_kept_when_its_worker_ends_and_given_to_the_next(case: Case) -> None:
    part = case.write(1, part=True, images=1).read_bytes()
    case.intake.take_parts(case.out, {1: case.plan.images_of(1), 2: case.plan.images_of(2)})
    assert case.paths.part(1).read_bytes() == part
    (case.paths.job("w1") / "out").mkdir(parents=True)
    case.intake.give_part(case.paths.out("w1"), 1)
    case.intake.give_part(case.paths.out("w1"), 2)
    case.paths.part(1).unlink()
    case.intake.take_parts(case.out, {1: case.plan.images_of(1)})
    assert not case.paths.part(1).exists(), "it did not change since it was taken"
    given = case.paths.job("w1") / "out"
    assert [(path.name, path.read_bytes()) for path in given.iterdir()] == [("00001.part.npz", part)]
    write_shard(given, 1, shard_of(case.plan, 1))
    case.intake.take(case.paths.out("w1"), 1, case.plan.images_of(1))
    assert not case.paths.part(1).exists()
    assert case.intake._parts == {}, "nothing is kept of parts whose shard is finished"


def test_planted_and_invalid_parts_are_not_kept(case: Case, secret: Path) -> None:
    part = case.folder / "00000.part.npz"
    images = {0: case.plan.images_of(0)}
    for plant in (lambda: part.symlink_to(secret), lambda: os.mkfifo(part), lambda: part.write_bytes(b"x")):
        plant()
        case.intake.take_parts(case.out, images)
        assert not case.paths.part(0).exists()
        part.unlink()
    case.write(0, part=True, scores=np.array([np.nan, 0], np.float32))
    case.intake.take_parts(case.out, images)
    assert not case.paths.part(0).exists()


def test_what_an_interrupted_run_left_is_taken_through_the_same_check(case: Case, secret: Path) -> None:
    case.write(0)
    case.write(1, scores=np.array([np.nan, 0], np.float32))
    case.write(2, part=True)
    (case.paths.jobs / "data").mkdir()
    link = case.paths.jobs / "w9"
    link.symlink_to(secret.parent)
    assert take_leftovers(case.intake, case.plan, case.paths) == [1, 2]
    assert missing_shards(case.plan, case.paths) == [1, 2]
    assert case.paths.part(2).exists()


@pytest.mark.parametrize("has_leftovers", [False, True])
def test_a_damaged_shard_is_missing_whatever_workers_left(case: Case, has_leftovers: bool) -> None:
    case.paths.shard(0).write_bytes(b"damaged")
    if has_leftovers:
        case.write(1)
    assert take_leftovers(case.intake, case.plan, case.paths) == ([0, 2] if has_leftovers else [0, 1, 2])


def test_job_folders_are_removed_without_following_links(case: Case, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (case.folder / "link").symlink_to(tmp_path / "mine")
    remove_job_folders(case.paths.jobs)
    assert not case.paths.jobs.exists()
    assert (tmp_path / "mine" / "file").exists()


# --- shards that the host gives up


def test_a_shard_that_is_given_up_has_all_its_images_failed_with_the_reason(case: Case) -> None:
    case.intake.fail(1, "nonsense")
    assert missing_shards(case.plan, case.paths) == [0, 2]
    with np.load(case.paths.shard(1)) as shard:
        assert shard["error"].tolist() == ["nonsense", "nonsense"]
        assert shard["status"].tolist() == [1, 1]


def test_a_damaged_shard_of_the_run_is_predicted_again(case: Case, secret: Path) -> None:
    for number in case.plan.shards:
        case.write(number)
        case.take(number)
    content = case.paths.shard(0).read_bytes()
    assert missing_shards(case.plan, case.paths) == []
    case.paths.shard(0).write_bytes(content[: len(content) // 2])
    case.paths.shard(1).unlink()
    os.mkfifo(case.paths.shard(1))
    case.paths.shard(2).unlink()
    case.paths.shard(2).mkdir()
    assert missing_shards(case.plan, case.paths) == [0, 1, 2]


# --- canvas masks


@pytest.fixture
def canvases(pictures: Case, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Pictures, and canvas masks of at most 8 rows and columns."""
    monkeypatch.setattr(pictures.intake, "_mask_files", (PICTURES, replace(CANVASES, side=8)))
    (pictures.folder / "canvas" / "00000").mkdir(parents=True)
    for index in (0, 1):
        np.save(canvas(pictures, index), np.full((8, 5), index / 4, np.float32))
    return pictures


def canvas(case: Case, index: int) -> Path:
    return case.folder / "canvas" / "00000" / f"{index:08d}.npy"


def test_canvas_masks_come_with_their_shard(canvases: Case) -> None:
    canvases.take()
    for index in (0, 1):
        taken = np.load(canvases.paths.shards / "canvas" / "00000" / f"{index:08d}.npy")
        assert np.array_equal(taken, np.full((8, 5), index / 4, np.float32))
    assert not (canvases.folder / "canvas" / "00000").exists(), "what was taken is not kept twice"


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no array",
        np.zeros((9, 5), np.float32),
        np.zeros((8, 5), np.float64),
        np.zeros(8, np.float32),
        np.zeros((0, 5), np.float32),
        np.full((8, 5), np.nan, np.float32),
        np.zeros((5, 8), np.float32).T,
        np.array([[{}]], dtype=object),
    ],
)
def test_a_wrong_canvas_mask_costs_its_image(canvases: Case, content: bytes | np.ndarray[Any, Any] | None) -> None:
    file = canvas(canvases, 1)
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content)
    assert list(canvases.refused().images) == [1]


@pytest.mark.parametrize("change", [lambda whole: whole[:-4], lambda whole: whole + bytes(4)])
def test_a_canvas_mask_of_another_length_costs_its_image(canvases: Case, change: Callable[[bytes], bytes]) -> None:
    whole = canvas(canvases, 0).read_bytes()
    canvas(canvases, 0).write_bytes(change(whole))
    assert list(canvases.refused().images) == [0]
