"""Displays: bars and the table of a terminal, what a table's rows and a log's lines say while several runs go on."""

from __future__ import annotations

import io
import sys
import time

import pytest
from rich.console import Console

from orchestrator.cli import main
from orchestrator.cli.progress import RichDisplay, TableBatchDisplay, describe, make_batch_display, make_display
from orchestrator.errors import BuildError, Interrupted
from orchestrator.system import display as display_module
from orchestrator.system.display import (
    PlainBatchDisplay,
    PlainDisplay,
    RunStatus,
    SilentBatchDisplay,
    SilentDisplay,
    with_name,
)
from tests.unit.system.test_display import play


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("json", "quiet", "terminal", "kind"),
    [
        (True, False, True, SilentDisplay),
        (False, True, True, SilentDisplay),
        (False, False, True, RichDisplay),
        (False, False, False, PlainDisplay),
    ],
)
def test_the_display_of_one_run_fits(
    monkeypatch: pytest.MonkeyPatch, json: bool, quiet: bool, terminal: bool, kind: type[object]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert type(make_display(json=json, quiet=quiet)) is kind


def test_terminals_get_bars_and_lines_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    play(RichDisplay())
    shown = terminal.getvalue()
    assert "building [tiny]" in shown
    assert "1.0 of ? MB" in shown
    assert "3/4" in shown
    assert "w1: starting" in shown
    assert "not now" not in shown
    assert shown.rstrip().endswith("done")


def test_a_spinner_ends_before_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown: list[RichDisplay] = []

    def fail(*_: object) -> None:
        shown.append(RichDisplay())
        shown[0].detail("building orch/tiny")
        raise BuildError("cannot build the image")

    monkeypatch.setattr("orchestrator.catalog.loader.load_catalog", fail)
    assert main(["models"]) == BuildError.exit_code
    assert not shown[0]._status._live.is_started
    assert terminal.getvalue().rstrip().endswith("error: cannot build the image")


def test_a_row_follows_its_run() -> None:
    batch = SilentBatchDisplay(["a", "b"])
    run, display = batch.runs["a"], batch.display("a", lambda: None)
    display.detail("Step 3/9")
    assert describe(run) == "Step 3/9"
    display.transfer(5 << 20, 10 << 20)
    assert describe(run) == "fetching 5 of 10 MB"
    with display.images(400, 100):
        display.progress(100, 0, {"w0": "loading", "w1": "starting"})
        assert describe(run) == "loading"
        run.since = time.monotonic() - 10
        display.progress(200, 2, {"w0": "shard 3", "w1": "loading"})
        assert (run.done, run.total) == (200, 400)
        assert describe(run).startswith("2 failed, ")
        assert describe(run).endswith(" left, 2 workers")
    assert describe(run) == "collecting"
    batch.finish("a", "done, 2 failed")
    batch.finish("b", "failed: it broke")
    assert [describe(one) for one in batch.runs.values()] == ["done, 2 failed", "failed: it broke"]


def test_what_is_under_way_ends_when_the_user_stops() -> None:
    def check() -> None:
        raise Interrupted("stopped")

    display = SilentBatchDisplay(["a"]).display("a", check)
    display.say("still speaks")
    with pytest.raises(Interrupted):
        display.detail("Step 4/9")


def test_lines_carry_the_name_once() -> None:
    assert (with_name("a", "a: variant cpu"), with_name("a", "ready")) == ("a: variant cpu", "a: ready")


def test_a_log_has_a_line_now_and_then_for_those_at_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display_module, "PLAIN_EVERY_SECONDS", 0.02)
    batch = PlainBatchDisplay(["a", "b", "c"])
    display = batch.display("a", lambda: None)
    batch.set_state("b", "building")
    with batch.live(), display.images(10, 0):
        display.progress(4, 0, {"w0": "shard 1"})
        time.sleep(0.2)
    batch.finish("a", "done")
    batch.finish("b", "failed: it broke")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("a:   4 of 10 images") for line in lines)
    assert "b:   building" in lines
    assert lines[-2:] == ["a: done", "b: failed: it broke"]
    assert not any(line.startswith("c:") for line in lines)


def test_the_table_shows_all_runs() -> None:
    batch = TableBatchDisplay(["a", "long-name"])
    batch.runs["a"] = RunStatus("a", "predicting", 40, 0, 10, 0, 1, time.monotonic() - 5, True)
    console = Console(file=io.StringIO(), width=90)
    console.print(batch.table())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "10/40" in text
    assert "images/s" in text
    assert "long-name" in text
    assert "waiting" in text


def test_no_table_where_there_is_no_terminal() -> None:
    assert type(make_batch_display(["a"], json=True, quiet=False)) is SilentBatchDisplay
    assert type(make_batch_display(["a"], json=False, quiet=True)) is SilentBatchDisplay
    assert type(make_batch_display(["a"], json=False, quiet=False)) is PlainBatchDisplay
