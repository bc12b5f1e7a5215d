"""Images for warm workers: under their mount by name, else linked, else copied, else the mount to add."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pytest
from orch_runner.image_file import DecodeError, read_image_file

from orchestrator.errors import RuntimeUnsuitable, UsageError
from orchestrator.inputs.collect import InputSet, collect_inputs
from orchestrator.runtimes.warm.staging import COPY_LIMIT, RootLocations, locate_roots, read_copy_limit, stage_images
from orchestrator.system.guest_tree import GuestFileRefused, GuestTree


def refuse(*arguments: object, **named: object) -> None:
    raise OSError(18, "Invalid cross-device link")


@pytest.fixture
def inputs(tmp_path: Path) -> InputSet:
    """Two roots with an image each, and a third that cannot be read."""
    sources = [str(tmp_path / "root0"), str(tmp_path / "root1"), str(tmp_path / "root2")]
    for number, name in enumerate(("a/one.png", "two.png", "three.png")):
        path = tmp_path / f"root{number}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * (10 + number))
    (tmp_path / "root2" / "three.png").unlink()
    (tmp_path / "root2" / "three.png").symlink_to(tmp_path / "missing.png")
    made = collect_inputs(sources, tmp_path / "unpacked")
    assert [root.name for root in made.roots] == ["root0", "root1"]
    return made


def test_roots_inside_the_mount_are_named_and_others_are_to_be_staged() -> None:
    roots = (Path("/photos/2024"), Path("/photos"), Path("/photos-of-others"))
    placed = locate_roots(roots, Path("/photos"), PurePosixPath("/data"), PurePosixPath("/spool/data/key"))
    assert placed == RootLocations(
        {0: PurePosixPath("/data/2024"), 1: PurePosixPath("/data"), 2: PurePosixPath("/spool/data/key/2")}, (2,)
    )
    assert locate_roots(roots, None, PurePosixPath("/data"), PurePosixPath("/s")).to_stage == (0, 1, 2)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[GuestTree]:
    """A spool's folder of a variant, which belongs to another user as root's does."""
    root = tmp_path / "spool"
    root.mkdir()
    if os.geteuid() == 0:
        os.chown(root, 65534, 65534)
    with GuestTree(root) as opened:
        yield opened


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers are another user")


@as_root
def test_images_are_linked_where_the_worker_cannot_write_to_them(
    inputs: InputSet, tmp_path: Path, tree: GuestTree
) -> None:
    said = stage_images(inputs, (0,), tree, "data/key", limit=0, stack="s")
    assert said == "1 image linked into the spool: the worker cannot read them where they are"
    staged = tree.root / "data" / "key"
    assert (staged / "0" / "a" / "one.png").samefile(tmp_path / "root0" / "a" / "one.png")
    assert not (staged / "1").exists()
    stage_images(inputs, (0, 1), tree, "data/key", limit=0, stack="s")
    assert (staged / "1" / "two.png").read_bytes() == b"x" * 11


@as_root
@pytest.mark.parametrize("why", ["its own", "group", "unreadable", "shared"])
def test_images_that_a_worker_could_write_or_cannot_read_are_copied(
    inputs: InputSet, tmp_path: Path, tree: GuestTree, why: str
) -> None:
    image = tmp_path / "root0" / "a" / "one.png"
    if why == "its own":
        os.chown(image, 65534, 65534)
    elif why == "shared":
        tree.root.chmod(0o2770)
    else:
        image.chmod(0o664 if why == "group" else 0o600)
    said = stage_images(inputs, (0,), tree, "data/key", limit=1000, stack="s")
    assert said is not None
    assert "1 image (0 MB) copied" in said
    copy = tree.root / "data" / "key" / "0" / "a" / "one.png"
    assert not copy.samefile(image)
    assert stat.S_IMODE(copy.stat().st_mode) == (0o660 if why == "shared" else 0o644)


def test_images_are_copied_where_they_cannot_be_linked_up_to_a_limit(
    inputs: InputSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: GuestTree
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    said = stage_images(inputs, (0, 1), tree, "data/key", limit=21, stack="s")
    assert said is not None
    assert "2 images (0 MB) copied" in said
    assert (tree.root / "data" / "key" / "1" / "two.png").read_bytes() == b"x" * 11
    with pytest.raises(RuntimeUnsuitable) as caught:
        stage_images(inputs, (0, 1), tree, "data/other", limit=20, stack="s")
    hint = str(caught.value.hint)
    assert f"ORCH_DATA={tmp_path / 'root0'} docker compose up -d" in hint
    assert f"orch up s --data {tmp_path / 'root0'}" in hint
    assert not (tree.root / "data" / "other").exists()


@pytest.mark.parametrize("planted", ["data", "data/key", "data/key/0"])
def test_a_folder_that_a_worker_swapped_for_a_link_costs_no_original(
    inputs: InputSet, tmp_path: Path, tree: GuestTree, planted: str
) -> None:
    (tree.root / planted).parent.mkdir(parents=True, exist_ok=True)
    (tree.root / planted).symlink_to(tmp_path / "root0")
    originals = {path: path.stat().st_ino for path in (tmp_path / "root0").rglob("*")}
    try:
        stage_images(inputs, (0,), tree, "data/key", limit=1000, stack="s")
    except GuestFileRefused:
        assert planted == "data"
    assert {path: path.stat().st_ino for path in (tmp_path / "root0").rglob("*")} == originals
    assert {path.name for path in (tmp_path / "root0").iterdir()} == {"a"}


def stop_copying(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Have the copying end in the middle of the file of that number, as when the command is killed."""
    copy, copied = shutil.copyfileobj, []

    def copy_half(source: BinaryIO, target: BinaryIO, length: int) -> None:
        copied.append(source)
        if len(copied) <= at:
            copy(source, target, length)
        else:
            target.write(source.read(5))
            target.flush()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", copy_half)


def test_half_a_copy_never_has_the_name_of_a_whole_one(
    inputs: InputSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: GuestTree
) -> None:
    """Neither after a stop, nor after a kill, which lets nothing be removed."""
    monkeypatch.setattr(os, "link", refuse)
    with monkeypatch.context() as context:
        stop_copying(context, at=1)
        with pytest.raises(KeyboardInterrupt):
            stage_images(inputs, (0, 1), tree, "data/key", limit=1000, stack="s")
        assert not (tree.root / "data" / "key").exists()
        context.setattr(GuestTree, "remove_folder", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            stage_images(inputs, (1, 0), tree, "data/key", limit=1000, stack="s")
        assert not list((tree.root / "data" / "key").rglob("*.png"))
    stage_images(inputs, (0, 1), tree, "data/key", limit=1000, stack="s")
    staged = {path.relative_to(tree.root / "data" / "key"): path.read_bytes() for path in tree.root.rglob("*.png")}
    assert staged == {Path("0/a/one.png"): b"x" * 10, Path("1/two.png"): b"x" * 11}


def test_an_old_version_is_replaced_even_where_it_cannot_be_removed(
    inputs: InputSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: GuestTree
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    stage_images(inputs, (0, 1), tree, "data/key", limit=1000, stack="s")
    image, copy = tmp_path / "root1" / "two.png", tree.root / "data" / "key" / "1" / "two.png"
    image.write_bytes(b"y" * 11)
    now = collect_inputs([str(tmp_path / "root0"), str(tmp_path / "root1")], tmp_path / "unpacked")
    monkeypatch.setattr(GuestTree, "remove_folder", lambda *_: None)
    stage_images(now, (0, 1), tree, "data/key", limit=1000, stack="s")
    assert copy.read_bytes() == b"y" * 11
    assert copy.stat().st_mtime_ns == image.stat().st_mtime_ns


def test_an_image_changed_while_it_is_copied_is_not_the_one_that_was_listed(
    inputs: InputSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: GuestTree
) -> None:
    """The worker compares size and time with those of the list, and fails the image."""
    monkeypatch.setattr(os, "link", refuse)
    listed, image = inputs.images[1], tmp_path / "root1" / "two.png"
    copy = shutil.copyfileobj

    def copy_and_change(source: BinaryIO, target: BinaryIO, length: int) -> None:
        copy(source, target, length)
        image.write_bytes(b"z" * 11)
        os.utime(image, ns=(listed.mtime_ns + 1, listed.mtime_ns + 1))

    monkeypatch.setattr(shutil, "copyfileobj", copy_and_change)
    stage_images(inputs, (1,), tree, "data/key", limit=1000, stack="s")
    staged = tree.root / "data" / "key" / "1" / "two.png"
    with pytest.raises(DecodeError, match="changed after"):
        read_image_file(staged, 1000, listed.size, listed.mtime_ns)


def test_nothing_to_stage_says_nothing(inputs: InputSet, tree: GuestTree) -> None:
    assert stage_images(inputs, (7,), tree, "data/key", 0, "s") is None


@pytest.mark.parametrize(
    ("text", "limit"), [("", COPY_LIMIT), ("0", 0), ("512", 512), ("3K", 3072), ("2m", 2 << 20), ("4GiB", 4 << 30)]
)
def test_the_limit_of_copies(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_SPOOL_COPY_LIMIT", text)
    assert read_copy_limit() == limit


def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_SPOOL_COPY_LIMIT", "plenty")
    with pytest.raises(UsageError, match="number of bytes"):
        read_copy_limit()
