"""Lines that grow, and lines that a guest made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.system.json_lines import MAX_LINE_BYTES, JsonLinesFile, LineSplitter, parse_object, split_lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_the_stream_is_cut(size: int) -> None:
    text = b'{"a": 1}\n\n{"b": 2}\nrest'
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(split_lines(blocks, keep_unfinished=True)) == text.split(b"\n")
    assert list(split_lines(blocks, keep_unfinished=False)) == text.split(b"\n")[:-1]


@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_a_line_that_is_too_long_is_skipped_and_not_kept(size: int) -> None:
    splitter = LineSplitter(max_bytes=8)
    text = b"short\n" + b"x" * 9 + b"\n12345678\n" + b"y" * 50 + b"\nlast\n"
    lines: list[bytes] = []
    for start in range(0, len(text), size):
        lines += splitter.feed(text[start : start + size])
        assert len(splitter._unfinished) <= 8
    assert lines == [b"short", b"12345678", b"last"]


@pytest.mark.parametrize(
    "line", [b"", b"nonsense", b"[1]", b"7", b"\xff\xfe{}", b'{"a": ', b"[" * 200_000, b"1" * 5000]
)
def test_what_is_no_object_is_nothing(line: bytes) -> None:
    assert parse_object(line) is None


def test_a_file_is_read_once_and_whole_lines_only(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = JsonLinesFile(file)
    assert list(lines.read_new()) == []
    file.write_text('{"event": "ready"}\nnonsense\n{"event": "prog')
    assert list(lines.read_new()) == [{"event": "ready"}]
    assert list(lines.read_new()) == []
    with file.open("a") as stream:
        stream.write('ress"}\n{"event": "exit"}\n')
    assert list(lines.read_new()) == [{"event": "progress"}, {"event": "exit"}]


def test_a_file_of_many_blocks_with_a_line_too_long_gives_all_others(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    many = b'{"n": 1}\n' * 200_000
    file.write_bytes(many + b'{"n": "' + b"x" * MAX_LINE_BYTES + b'"}\n' + many)
    assert sum(event["n"] for event in JsonLinesFile(file).read_new()) == 400_000


def test_a_link_a_fifo_and_a_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "target").write_text('{"event": "ready"}\n')
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", ""):
        assert list(JsonLinesFile(tmp_path / name).read_new()) == []


def test_a_writer_that_never_stops_does_not_hold_the_reader(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"n": 0}\n')
    lines, read = JsonLinesFile(file), 0
    with file.open("a") as writer:
        for _ in lines.read_new():
            read += 1
            writer.write('{"n": 1}\n')
            writer.flush()
    assert read == 1
    assert [event["n"] for event in lines.read_new()] == [1]
