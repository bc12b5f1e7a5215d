"""Images for warm workers: under their mount by name, else linked, else copied, else the mount to add."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.errors import RuntimeUnsuitable, UsageError
from orchestrator.inputs.collect import InputSet, collect_inputs
from orchestrator.runtimes.warm.staging import COPY_LIMIT, RootLocations, locate_roots, read_copy_limit, stage_images


def refuse(*arguments: object) -> None:
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


def test_images_are_linked_where_they_can_be(inputs: InputSet, tmp_path: Path) -> None:
    said = stage_images(inputs, (0,), tmp_path / "staged", limit=0, stack="s")
    assert said == "1 images linked into the spool: the worker cannot read them where they are"
    assert (tmp_path / "staged" / "0" / "a" / "one.png").samefile(tmp_path / "root0" / "a" / "one.png")
    assert not (tmp_path / "staged" / "1").exists()
    stage_images(inputs, (0, 1), tmp_path / "staged", limit=0, stack="s")
    assert (tmp_path / "staged" / "1" / "two.png").read_bytes() == b"x" * 11


def test_images_are_copied_where_they_cannot_be_linked_up_to_a_limit(
    inputs: InputSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    said = stage_images(inputs, (0, 1), tmp_path / "staged", limit=21, stack="s")
    assert said is not None
    assert "2 images (0 MB) copied" in said
    assert (tmp_path / "staged" / "1" / "two.png").read_bytes() == b"x" * 11
    with pytest.raises(RuntimeUnsuitable) as caught:
        stage_images(inputs, (0, 1), tmp_path / "other", limit=20, stack="s")
    hint = str(caught.value.hint)
    assert f"ORCH_DATA={tmp_path / 'root0'} docker compose up -d" in hint
    assert f"orch up s --data {tmp_path / 'root0'}" in hint
    assert not (tmp_path / "other").exists()


def test_nothing_to_stage_says_nothing(inputs: InputSet, tmp_path: Path) -> None:
    assert stage_images(inputs, (7,), tmp_path / "staged", 0, "s") is None


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
