"""What a guest may leave in its folders, and that the host follows none of it."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.system.guest_tree import GuestFileRefused, GuestTree

SECRET = b"of the host alone"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that the guest must not reach, with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[GuestTree]:
    root = tmp_path / "tree"
    (root / "out").mkdir(parents=True)
    with GuestTree(root) as opened:
        yield opened


def link(tree: GuestTree, outside: Path) -> None:
    (tree.root / "out" / "x").symlink_to(outside / "secret")


def hard_link(tree: GuestTree, outside: Path) -> None:
    (tree.root / "out" / "x").hardlink_to(outside / "secret")


def fifo(tree: GuestTree, outside: Path) -> None:
    os.mkfifo(tree.root / "out" / "x")


def listening_socket(tree: GuestTree, outside: Path) -> None:
    here = os.open(tree.root / "out", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:  # by descriptor: the path may be too long for a socket
        listener.bind(f"/proc/self/fd/{here}/x")
    os.close(here)


def folder(tree: GuestTree, outside: Path) -> None:
    (tree.root / "out" / "x").mkdir()


def linked_folder(tree: GuestTree, outside: Path) -> None:
    (tree.root / "out").rmdir()
    (tree.root / "out").symlink_to(outside)
    (outside / "x").write_bytes(SECRET)


ODD: list[Callable[[GuestTree, Path], None]] = [link, hard_link, fifo, listening_socket, folder, linked_folder]


@pytest.mark.parametrize("plant", ODD)
def test_what_is_no_file_of_the_guests_is_refused_at_once(
    tree: GuestTree, outside: Path, tmp_path: Path, plant: Callable[[GuestTree, Path], None]
) -> None:
    plant(tree, outside)
    before = {path: (path.lstat().st_mode, path.lstat().st_uid) for path in outside.iterdir()}
    with pytest.raises(GuestFileRefused):
        tree.read("out/x")
    with pytest.raises(GuestFileRefused):
        tree.copy("out/x", tmp_path / "copy", 1 << 20)
    assert tree.state("out/x") is None
    assert not (tmp_path / "copy").exists()
    assert not list(tmp_path.glob(".copy*"))
    assert {path: (path.lstat().st_mode, path.lstat().st_uid) for path in outside.iterdir()} == before
    assert (outside / "secret").read_bytes() == SECRET


@pytest.mark.parametrize(
    "name", ["../outside/secret", "out/../../outside/secret", "/etc/passwd", "out//x", ".", "out/x\0"]
)
def test_names_that_lead_elsewhere_are_refused(tree: GuestTree, name: str) -> None:
    for action in (tree.read, tree.touch, tree.remove, tree.make_folder, lambda name: tree.write(name, b"")):
        with pytest.raises(GuestFileRefused):
            action(name)


def test_nothing_is_written_touched_or_removed_through_a_link(tree: GuestTree, outside: Path) -> None:
    times = (outside / "secret").stat().st_mtime_ns
    (tree.root / "out" / "mark").symlink_to(outside / "secret")
    with pytest.raises(GuestFileRefused):
        tree.touch("out/mark")
    tree.write("out/mark", b"new")
    assert (tree.root / "out" / "mark").read_bytes() == b"new"
    (tree.root / "out" / "mark").unlink()
    (tree.root / "out" / "mark").symlink_to(outside / "secret")
    assert tree.remove("out/mark")
    (tree.root / "gone").symlink_to(outside)
    tree.remove_folder("gone")
    (tree.root / "out" / "deep").symlink_to(outside)
    tree.remove_folder("out")
    assert not (tree.root / "out").exists()
    assert (outside / "secret").read_bytes() == SECRET
    assert (outside / "secret").stat().st_mtime_ns == times


def test_a_copy_has_neither_the_bits_nor_the_owner(tree: GuestTree, tmp_path: Path) -> None:
    (tree.root / "out" / "x").write_bytes(b"program")
    (tree.root / "out" / "x").chmod(0o6755)
    assert tree.copy("out/x", tmp_path / "copy", 100) == 7
    state = (tmp_path / "copy").stat()
    assert not state.st_mode & (stat.S_ISUID | stat.S_ISGID | 0o111)
    assert state.st_uid == os.geteuid()


def test_files_of_strangers_and_large_ones_are_refused(tmp_path: Path, tree: GuestTree) -> None:
    (tree.root / "out" / "x").write_bytes(b"12345")
    with pytest.raises(GuestFileRefused, match="5 bytes"):
        tree.copy("out/x", tmp_path / "copy", 4)
    with pytest.raises(GuestFileRefused, match="5 bytes"):
        tree.read("out/x", 4)
    assert tree.read("out/x", 4, offset=2) == b"345"
    with GuestTree(tree.root, owners=(os.geteuid() + 1,)) as strict, pytest.raises(GuestFileRefused, match="of uid"):
        strict.read("out/x")


def test_a_file_that_grows_without_end_does_not_hold_the_host(tree: GuestTree, tmp_path: Path) -> None:
    path = tree.root / "out" / "x"
    path.write_bytes(b"a" * (1 << 20))
    over = threading.Event()

    def grow() -> None:
        with path.open("ab") as stream:
            while not over.is_set():
                stream.write(b"b" * (1 << 16))
                time.sleep(0.0001)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        copied = tree.copy("out/x", tmp_path / "copy", 1 << 30)
    finally:
        over.set()
        writer.join()
    assert copied == (tmp_path / "copy").stat().st_size <= path.stat().st_size


def test_folders_are_given_only_where_they_are_ours(tree: GuestTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.make_folder("jobs")
    tree.make_folder("jobs/a", owner=(os.geteuid(), os.getegid()))
    with pytest.raises(FileExistsError):
        tree.make_folder("jobs/a")
    made = os.mkdir

    def swap(path: str, mode: int, *, dir_fd: int) -> None:
        """The guest is quicker: a link stands where the folder was made."""
        made(path, mode, dir_fd=dir_fd)
        os.rmdir(path, dir_fd=dir_fd)
        os.symlink("/", path, dir_fd=dir_fd)

    monkeypatch.setattr("orchestrator.system.guest_tree.os.mkdir", swap)
    with pytest.raises(GuestFileRefused):
        tree.make_folder("jobs/b", owner=(os.geteuid(), os.getegid()))


def test_listing_and_marks(tree: GuestTree, tmp_path: Path) -> None:
    assert tree.names("nothing") == []
    tree.write("out/b", b"1")
    tree.touch("out/a")
    assert tree.names("out") == ["a", "b"]
    assert tree.has("out/a")
    assert not tree.has("out/c")
    assert not tree.remove("out/c")
    first = tree.state("out/a")
    time.sleep(0.01)
    tree.touch("out/a")
    second = tree.state("out/a")
    assert first is not None
    assert second is not None
    assert second.mtime_ns > first.mtime_ns
    (tmp_path / "image").write_bytes(b"pixels")
    tree.put("out/c", tmp_path / "image")
    assert tree.read("out/c") == b"pixels"
    tree.link_to("data", "/data")
    assert os.readlink(tree.root / "data") == "/data"


def test_a_folder_nested_deeper_than_python_recurses_is_removed(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=descriptor)
        below = os.open("deep", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    with GuestTree(tmp_path) as tree:
        tree.remove_folder("deep")
    assert list(tmp_path.iterdir()) == []


def test_removing_a_folder_keeps_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "mine" / "sub").mkdir(parents=True)
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "out" / "sub" / "link").symlink_to(tmp_path / "mine")
    with GuestTree(tmp_path) as tree:
        tree.remove_folder("out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine", "sub"]


def test_a_guest_that_appends_while_its_file_is_copied_does_not_lengthen_the_copy(
    tree: GuestTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, opened = tree.root / "out" / "x", tmp_path / "copy", os.open
    source.write_bytes(b"0123456789")

    def append_and_open(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".tmp"):
            with source.open("ab") as stream:
                stream.write(b"more and more")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", append_and_open)
    assert tree.copy("out/x", target, limit=100) == 10
    assert target.read_bytes() == b"0123456789"


def test_a_deep_tree_and_many_files_are_removed(tree: GuestTree) -> None:
    here = os.open(tree.root / "out", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    for number in range(2500):
        (tree.root / "out" / str(number)).touch()
    tree.remove_folder("out")
    assert not tree.has("out")


def test_a_guest_that_never_stops_making_files_does_not_hold_the_host(
    tree: GuestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.system.guest_tree._REMOVE_SECONDS", 0.3)
    over = threading.Event()

    def make() -> None:
        while not over.is_set():
            with suppress(OSError):
                (tree.root / "out" / os.urandom(8).hex()).touch()

    maker = threading.Thread(target=make)
    maker.start()
    try:
        started = time.monotonic()
        tree.remove_folder("out")
        assert time.monotonic() - started < 30
    finally:
        over.set()
        maker.join()


def test_a_folder_held_open_stays_that_folder(tree: GuestTree, outside: Path) -> None:
    (tree.root / "out" / "log").write_bytes(b"0123456789")
    with tree.below("out") as out:
        (tree.root / "out").rename(tree.root / "away")
        (tree.root / "out").symlink_to(outside)
        assert out.read_block("log", 2, 3) == b"234"
        assert out.read_block("log", 20) == b""
        out.write("mark", b"")
        assert out.status().st_ino == (tree.root / "away").stat().st_ino
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    with pytest.raises(GuestFileRefused):
        tree.below("out")


def test_locks_are_seen_and_only_on_files(tree: GuestTree, outside: Path) -> None:
    with (tree.root / "out" / "lock").open("w") as lock:
        assert not tree.is_locked("out/lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert tree.is_locked("out/lock")
    (tree.root / "out" / "link").symlink_to(outside / "secret")
    with (outside / "secret").open() as secret:
        fcntl.flock(secret, fcntl.LOCK_EX)
        assert not tree.is_locked("out/link")


def test_folders_are_made_below_real_ones_only(tree: GuestTree, outside: Path) -> None:
    tree.make_folders("data/a/b")
    tree.make_folders("data/a/b")
    assert (tree.root / "data" / "a" / "b").is_dir()
    (tree.root / "data" / "link").symlink_to(outside)
    (tree.root / "data" / "file").touch()
    for name in ("data/link", "data/link/c", "data/file", "data/file/c"):
        with pytest.raises(GuestFileRefused):
            tree.make_folders(name)
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_made_has_the_same_mode_under_every_umask(tree: GuestTree, shared: bool, tmp_path: Path) -> None:
    if shared:
        tree.root.chmod(0o2770)
    (tmp_path / "image").write_bytes(b"pixels")
    earlier = os.umask(0o077)
    try:
        tree.make_folder("jobs")
        tree.write("a", b"1")
        tree.touch("b")
        tree.put("c", tmp_path / "image")
    finally:
        os.umask(earlier)
    modes = {name: stat.S_IMODE((tree.root / name).stat().st_mode) for name in ("jobs", "a", "b", "c")}
    file, folder = (0o660, 0o2770) if shared else (0o644, 0o755)
    assert modes == {"jobs": folder, "a": file, "b": file, "c": file}


def test_a_file_is_linked_only_for_who_can_read_it_and_never_write_it(tree: GuestTree, tmp_path: Path) -> None:
    image, me = tmp_path / "image", os.geteuid()
    image.write_bytes(b"pixels")
    for mode, reader, linked in ((0o644, me, False), (0o600, 99, False), (0o664, 99, False), (0o644, 99, True)):
        image.chmod(mode)
        assert tree.put_link("x", image, reader) is linked
    assert (tree.root / "x").samefile(image)
    os.mkfifo(tmp_path / "fifo")
    for action in (lambda: tree.put("y", tmp_path / "fifo"), lambda: tree.put_link("y", tmp_path / "fifo", 99)):
        with pytest.raises(OSError, match="no regular file"):
            action()


def test_the_descriptor_is_released_once_whatever_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(os, "close", closed.append)
    for number in (0, 77):
        tree = GuestTree(tmp_path, descriptor=number)
        tree.close()
        tree.close()
    assert closed == [0, 77]
