"""A run directory whose files were damaged, replaced or led elsewhere: redone, or refused by the file's name."""

from __future__ import annotations

import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.predictions.predictions import Predictions
from tests.hostile.arena import Arena, compare, said_to_terminal
from tests.hostile.commands import Done
from tests.hostile.fuzzing import damaged, fuzzed
from tests.hostile.outside import Outside
from tests.hostile.table import BRIGHT

FILES = ("run.json", "inputs.jsonl", "events.jsonl", "summary.json", "predictions.npz", "shards/00003.npz")
FOLDERS = ("shards", "logs", "jobs", "masks", "unpacked")
REFUSED = frozenset({0, 2, 5})
"""Redone, or refused: as another request's folder (2) or as damaged (5)."""
REDONE = frozenset({0})
"""Of files that the run can be completed without: whatever is in them, they are made again."""
TIMEOUT = 60


def fifo(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


def link(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(outside / ("secret.npz" if path.suffix == ".npz" else "secret.txt"))


def dangling(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(outside / "made-by-the-host")


def own_socket(path: Path, outside: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def content(make: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """A damage by which a file gets another content."""

    def damage(path: Path, outside: Path) -> None:
        path.write_bytes(make(path.read_bytes()))

    return damage


def compressed_anew(path: Path, outside: Path) -> None:
    """An archive of the same arrays, some of their bytes changed, with checksums that hold."""
    if path.suffix != ".npz":
        path.write_bytes(path.read_bytes()[::-1])
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, whole in members.items():
            archive.writestr(name, whole[:-1] + b"\x7f" if name.startswith(("boxes", "scores")) else whole)


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "gone": lambda path, outside: path.unlink(),
    "empty": content(lambda whole: b""),
    "half": content(lambda whole: whole[: len(whole) // 2]),
    "one-byte-less": content(lambda whole: whole[:-1]),
    "flipped": content(
        lambda whole: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "garbage": content(lambda whole: b"\xff\xfe\x00garbage\n" * 20),
    "zeros": content(lambda whole: bytes(len(whole))),
    "twice": content(lambda whole: whole + whole),
    "null": content(lambda whole: b"null\n"),
    "list": content(lambda whole: b"[1, 2]\n"),
    "object": content(lambda whole: b"{}\n"),
    "nested": content(lambda whole: b"[" * 100_000),
    "odd-kinds": content(
        lambda whole: b'{"format": [], "request": 7, "plan": {}, "images": null, "index": "x", "file": 3}\n'
    ),
    "odd-line": content(
        lambda whole: b'{"event": "ready", "worker": [], "seq": "x", "versions": 7}\n[]\n' + whole + b'{"event"\n\xff\n'
    ),
    "changed": compressed_anew,
    "fifo": fifo,
    "folder": folder,
    "link": link,
    "dangling": dangling,
    "socket": own_socket,
}
QUICK = ("gone", "half", "odd-kinds", "odd-line", "fifo", "link", "changed")
"""Damages that are tried on unfinished runs as well."""


class Runs:
    """A complete run and an unfinished one, to be copied and damaged."""

    def __init__(self, arena: Arena) -> None:
        self.arena, self.count = arena, 0
        self.honest = arena.honest_run(BRIGHT)
        self.complete = arena.honest[BRIGHT]

    def copy(self, *, is_complete: bool) -> tuple[Path, Outside]:
        """Return a copy of the run, and files outside of it."""
        self.count += 1
        here = self.arena.folder / f"files-{self.count:05d}"
        here.mkdir()
        out = here / "run"
        shutil.copytree(self.complete, out)
        if not is_complete:
            for name in ("summary.json", "predictions.npz", "shards/00001.npz", "shards/00007.npz"):
                (out / name).unlink()
        return out, Outside(here / "outside").make()

    def check(self, out: Path, outside: Outside, name: str, ends: frozenset[int] = REFUSED) -> None:
        """Resume the run: it ends well with the same predictions, or says what is wrong and where."""
        done: Done = self.arena.commands.run(
            "run",
            "-m",
            BRIGHT,
            "-i",
            self.arena.images,
            "-o",
            out,
            "--shard-size",
            2,
            *self.arena.options,
            timeout=TIMEOUT,
        )
        faults = [] if not done.hung else ["hung"]
        if done.code not in ends:
            faults.append(f"exit {done.code}, expected one of {sorted(ends)}")
        elif done.code > 1 and Path(name).name.encode() not in done.stderr and str(out).encode() not in done.stderr:
            faults.append(f"neither {name} nor its folder is named")
        faults += said_to_terminal(done) + [f"outside: {one}" for one in outside.changes()]
        if done.code in (0, 1):
            faults += self._predictions(out)
        if faults:
            pytest.fail("\n".join([*faults, str(done)]), pytrace=False)
        shutil.rmtree(out.parent, ignore_errors=True)

    def _predictions(self, out: Path) -> list[str]:
        path = out / "predictions.npz"
        if path.is_symlink() or not path.is_file():
            return ["no predictions"]
        try:
            predictions = Predictions.load(path)
            problems = [str(one) for one in predictions.validate()]
            return problems or [f"image {image}: {fault}" for image, fault in compare(predictions, self.honest).items()]
        except Exception as error:
            return [f"predictions: {type(error).__name__}: {error}"]


@pytest.fixture(scope="module")
def runs(venv_arena: Arena) -> Runs:
    return Runs(venv_arena)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_complete_run(runs: Runs, name: str, damage: str) -> None:
    out, outside = runs.copy(is_complete=True)
    DAMAGES[damage](out / name, outside.root)
    runs.check(out, outside, name, ends(name, damage))


@pytest.mark.parametrize("damage", QUICK)
@pytest.mark.parametrize("name", ["run.json", "inputs.jsonl", "events.jsonl", "shards/00003.npz"])
def test_a_damaged_unfinished_run(runs: Runs, name: str, damage: str) -> None:
    out, outside = runs.copy(is_complete=False)
    DAMAGES[damage](out / name, outside.root)
    runs.check(out, outside, name, ends(name, damage))


def ends(name: str, damage: str) -> frozenset[int]:
    """Return how a command may end: content of events and shards can be done without, other files need not."""
    is_content = DAMAGES[damage] not in (fifo, folder, link, dangling, own_socket)
    return REDONE if is_content and name in ("events.jsonl", "shards/00003.npz") else REFUSED


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link(runs: Runs, name: str) -> None:
    out, outside = runs.copy(is_complete=False)
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).symlink_to(outside.root / "originals")
    runs.check(out, outside, name)


def test_a_lock_that_is_a_pipe_or_a_link(runs: Runs) -> None:
    for make in (fifo, dangling, link):
        out, outside = runs.copy(is_complete=False)
        (out / ".lock").touch()
        make(out / ".lock", outside.root)
        runs.check(out, outside, ".lock")


def test_what_a_guest_left_in_job_folders_is_removed_unfollowed(runs: Runs) -> None:
    out, outside = runs.copy(is_complete=False)
    for number, kind in enumerate(("link", "fifo", "folder", "dangling", "deep")):
        left = out / "jobs" / f"w{number}-000000" / "out"
        left.parent.mkdir(parents=True)
        if kind == "deep":
            deep(left)
            continue
        left.mkdir()
        for file in ("00001.npz", "00007.part.npz", "masks"):
            (left / file).touch()
            {"link": link, "fifo": fifo, "folder": folder, "dangling": dangling}[kind](left / file, outside.root)
    (out / "jobs" / "w9-000000").mkdir()
    (out / "jobs" / "w9-000000" / "out").symlink_to(outside.root / "originals")
    (out / "jobs" / "w8-000000").symlink_to(outside.root / "originals")
    os.mkfifo(out / "jobs" / "w9-000000" / "pid")
    runs.check(out, outside, "jobs")


def test_parts_that_are_links_and_pipes(runs: Runs) -> None:
    out, outside = runs.copy(is_complete=False)
    (out / "shards" / "00001.part.npz").symlink_to(outside.root / "secret.npz")
    os.mkfifo(out / "shards" / "00007.part.npz")
    (out / "shards" / ".00001.npz.aaaa.tmp").symlink_to(outside.root / "secret.npz")
    os.mkfifo(out / "shards" / ".00002.npz.aaaa.tmp")
    (out / "shards" / ".00003.npz.aaaa.tmp").mkdir()
    runs.check(out, outside, "shards")


def deep(folder: Path) -> None:
    """Thousands of folders, one in another."""
    folder.mkdir()
    here = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)


@given(st.data())
@fuzzed(25, slowdown=20)
def test_fuzzed_files(runs: Runs, data: st.DataObject) -> None:
    is_complete = data.draw(st.booleans())
    out, outside = runs.copy(is_complete=is_complete)
    names = [name for name in FILES if (out / name).is_file()]
    name = data.draw(st.sampled_from(names))
    (out / name).write_bytes(data.draw(damaged((out / name).read_bytes())))
    runs.check(out, outside, name)
