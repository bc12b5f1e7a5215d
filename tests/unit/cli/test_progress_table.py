"""The boards: what a table's rows and a log's lines say while several runs go on."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from orchestrator.cli import progress_table
from orchestrator.cli.progress_table import PlainBoard, Row, SilentBoard, TableBoard, make_board, named, row_words
from orchestrator.errors import Interrupted


def test_a_row_follows_its_run() -> None:
    board = SilentBoard(["a", "b"])
    row, display = board.rows["a"], board.display("a", lambda: None)
    display.detail("Step 3/9")
    assert row_words(row) == "Step 3/9"
    display.transfer(5 << 20, 10 << 20)
    assert row_words(row) == "fetching 5 of 10 MB"
    with display.images(400, 100):
        display.progress(100, 0, {"w0": "loading", "w1": "starting"})
        assert row_words(row) == "loading"
        row.since = time.monotonic() - 10
        display.progress(200, 2, {"w0": "shard 3", "w1": "loading"})
        assert (row.done, row.total) == (200, 400)
        assert row_words(row).startswith("2 failed, ")
        assert row_words(row).endswith(" left, 2 workers")
    assert row_words(row) == "collecting"
    board.ended("a", "done, 2 failed")
    board.ended("b", "failed: it broke")
    assert [row_words(one) for one in board.rows.values()] == ["done, 2 failed", "failed: it broke"]


def test_what_is_under_way_ends_when_the_user_stops() -> None:
    def check() -> None:
        raise Interrupted("stopped")

    display = SilentBoard(["a"]).display("a", check)
    display.say("still speaks")
    with pytest.raises(Interrupted):
        display.detail("Step 4/9")


def test_lines_carry_the_name_once() -> None:
    assert (named("a", "a: variant cpu"), named("a", "ready")) == ("a: variant cpu", "a: ready")


def test_a_log_has_a_line_now_and_then_for_those_at_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_table, "PLAIN_EVERY_SECONDS", 0.02)
    board = PlainBoard(["a", "b", "c"])
    display = board.display("a", lambda: None)
    board.state("b", "building")
    with board.live(), display.images(10, 0):
        display.progress(4, 0, {"w0": "shard 1"})
        time.sleep(0.2)
    board.ended("a", "done")
    board.ended("b", "failed: it broke")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("a:   4 of 10 images") for line in lines)
    assert "b:   building" in lines
    assert lines[-2:] == ["a: done", "b: failed: it broke"]
    assert not any(line.startswith("c:") for line in lines)


def test_the_table_shows_all_runs() -> None:
    board = TableBoard(["a", "long-name"])
    board.rows["a"] = Row("a", "predicting", 40, 0, 10, 0, 1, time.monotonic() - 5, True)
    console = Console(file=io.StringIO(), width=90)
    console.print(board.table())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "10/40" in text
    assert "images/s" in text
    assert "long-name" in text
    assert "waiting" in text


def test_no_table_where_there_is_no_terminal() -> None:
    assert type(make_board(["a"], json=True, quiet=False)) is SilentBoard
    assert type(make_board(["a"], json=False, quiet=True)) is SilentBoard
    assert type(make_board(["a"], json=False, quiet=False)) is PlainBoard
