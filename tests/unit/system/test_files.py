"""Files are replaced in one step."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.system.files import (
    open_to_append,
    read_json_object,
    read_regular,
    replace_path,
    sha256_of,
    write_json,
    write_text,
)
from tests.unit.durability import durable_steps, record_syncs


def test_json_is_replaced_in_one_step_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"name": "äöü 猫"})
    assert "äöü 猫" in path.read_text(encoding="utf-8")
    write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    assert [one.name for one in path.parent.iterdir()] == ["x.json"]


def test_names_that_are_no_utf8_survive_as_escapes(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"file": "a\udcff.jpg"})
    assert json.loads((tmp_path / "x.json").read_bytes().decode("utf-8")) == {"file": "a\udcff.jpg"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "\udcff")
    assert (tmp_path / "x").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "x" / "kept").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "x", "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "kept"]


def test_a_program_writes_beside_the_file_and_what_it_leaves_on_failure_is_removed(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with suppress(RuntimeError), replace_path(tmp_path / "x") as aside:
        aside.mkdir()
        (aside / "part").touch()
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "old"}
    with replace_path(tmp_path / "x") as aside:
        aside.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "new"}


@pytest.mark.parametrize(("durable", "expected"), [(True, ["file", "renamed", "folder"]), (False, ["renamed"])])
def test_a_durable_write_waits_for_the_file_before_its_name_and_for_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, expected: list[str]
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        assert is_folder or os.fstat(descriptor).st_size == 4
        steps.append("folder" if is_folder else "file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        steps.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_text(tmp_path / "x", "text", durable=durable)
    assert steps == expected


@pytest.mark.parametrize("write", [write_json, write_text])
def test_files_are_written_durably_unless_asked_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Any]
) -> None:
    steps = record_syncs(monkeypatch, tmp_path / "x.json")
    write(tmp_path / "x.json", "text")
    assert steps == durable_steps(tmp_path / "x.json")
    steps.clear()
    write(tmp_path / "x.json", "text", durable=False)
    assert steps == ["renamed"]


@pytest.mark.parametrize("kind", ["missing", "file", "cut", "link", "fifo"])
def test_lines_are_appended_to_a_file_of_its_own(tmp_path: Path, kind: str) -> None:
    path, mine = tmp_path / "events.jsonl", tmp_path / "mine"
    mine.write_text("mine")
    before = {"file": "a\n", "cut": "a"}.get(kind)
    if before is not None:
        path.write_text(before)
    elif kind == "link":
        path.symlink_to(mine)
    elif kind == "fifo":
        os.mkfifo(path)
    with open_to_append(path) as stream:
        stream.write("b\n")
    assert path.read_text() == ("a\nb\n" if before else "b\n")
    assert mine.read_text() == "mine"


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    file, link, fifo = tmp_path / "file", tmp_path / "link", tmp_path / "fifo"
    file.write_text('{"a": 1}')
    link.symlink_to(file)
    os.mkfifo(fifo)
    assert read_json_object(file) == {"a": 1}
    for other in (link, fifo, tmp_path):
        with pytest.raises(OSError, match="not a"):
            read_regular(other)
    with pytest.raises(OSError, match="3 at most"):
        read_regular(file, 3)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested"):
        read_json_object(file)


@pytest.mark.parametrize("name", ["x", "x" * 255, "ü" * 127])
def test_the_longest_names_can_be_replaced(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "old")
    write_text(tmp_path / name, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(name, "new")]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with replace_path(tmp_path / "report.html") as aside:
            aside.write_text("half")
            raise OSError(28, "No space left on device")  # what write() raises

    with pytest.raises(OSError, match=r"No space left on device: '.*/report.html'"):
        write()
    assert list(tmp_path.iterdir()) == []
