"""A worker whose out folder grows too large is killed, and the reason names the limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.dispatch.out_size import find_excess
from orchestrator.paths import GuestFolder
from orchestrator.system.guest_tree import DEPTH_LIMIT, GuestFileRefused, GuestTree


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "job" / "out"
    (folder / "masks" / "00001").mkdir(parents=True)
    (folder / "masks" / "00001" / "1.png").write_bytes(b"x" * 300_000)
    (folder / ".hidden").write_bytes(b"x" * 200_000)
    return folder


def excess(out: Path, limit: int) -> str | None:
    return find_excess(GuestFolder(out.parent, "out"), limit)


def test_everything_in_the_folder_counts_and_links_are_not_followed(out: Path, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 5_000_000)
    (out / "link").symlink_to(tmp_path / "large")
    (out / "folder").symlink_to(tmp_path)
    os.mkfifo(out / "fifo")
    with GuestTree(out.parent) as tree:
        assert 500_000 <= tree.size("out") < 600_000
        assert tree.size("missing") == 0
    assert excess(out, 1 << 20) is None
    assert excess(out, 400_000) == "its out folder holds more than 391 KiB, --out-size raises the limit"


def test_a_sparse_file_counts_by_what_it_occupies(out: Path) -> None:
    with (out / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    assert excess(out, 1 << 30) is None


def test_a_tree_that_is_too_deep_is_refused(out: Path) -> None:
    (out / "/".join(["a"] * (DEPTH_LIMIT + 2))).mkdir(parents=True)
    with GuestTree(out.parent) as tree, pytest.raises(GuestFileRefused):
        tree.size("out")
    assert "deep" in str(excess(out, 1 << 40))


def test_a_folder_swapped_for_a_link_is_named_and_one_that_is_gone_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "out").symlink_to("/etc")
    assert "out folder is refused" in str(excess(tmp_path / "job" / "out", 1 << 40))
    assert find_excess(GuestFolder(tmp_path / "none", "out"), 1) is None


def test_a_folder_is_copied_through_the_door(out: Path, tmp_path: Path) -> None:
    (out / "link").symlink_to("/etc/passwd")
    (out / ".hidden").chmod(0o4755)
    with GuestTree(out.parent) as tree:
        tree.copy_folder("out", tmp_path / "copy", 1 << 20)
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert copied == {".hidden", "masks", "masks/00001", "masks/00001/1.png"}
    assert (tmp_path / "copy" / ".hidden").stat().st_mode & 0o7111 == 0
