"""Displays: a line now and then for logs, nothing for programs."""

from __future__ import annotations

import pytest

from orchestrator.system import display as display_module
from orchestrator.system.display import PlainBatchDisplay, PlainDisplay, SilentDisplay, clock, rate_line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((0, 400, 0, 0, 0.0), "0 of 400 images"),
        ((120, 400, 2, 0, 10.0), "120 of 400 images, 2 failed, 12.0 images/s, 0:23 left"),
        ((120, 400, 0, 100, 10.0), "120 of 400 images, 2.0 images/s, 2:20 left"),
        ((100, 400, 0, 100, 10.0), "100 of 400 images"),
        ((1, 10**6, 0, 0, 1.0), "1 of 1000000 images, 1.0 images/s, 277:46:39 left"),
    ],
)
def test_the_line_of_a_run(arguments: tuple[int, int, int, int, float], line: str) -> None:
    assert rate_line(*arguments) == line


def test_times() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def play(display: display_module.Display) -> None:
    display.say("building [tiny]")
    display.detail("step 1")
    display.detail("")
    display.transfer(1 << 20, 4 << 20)
    display.transfer(1 << 20, None)
    with display.images(4, 1):
        display.progress(2, 1, {"w0": "shard 1"})
        display.detail("not now")
        display.progress(3, 1, {"w0": "shard 1", "w1": "starting"})
    display.say("done")


def test_programs_see_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    play(SilentDisplay())
    assert capsys.readouterr() == ("", "")


def test_logs_get_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    play(PlainDisplay())
    assert capsys.readouterr() == ("", "building [tiny]\ndone\n")
    monkeypatch.setattr(display_module, "PLAIN_EVERY_SECONDS", 0.0)
    play(PlainDisplay())
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[:4] == ["building [tiny]", "  step 1", "  1 of 4 MB", "  1 of ? MB"]
    assert lines[4].startswith("  2 of 4 images, 1 failed, ")


def test_a_line_names_its_run_once() -> None:
    assert display_module.with_name("a", "ready") == "a: ready"
    assert display_module.with_name("a", "a: variant cpu") == "a: variant cpu"
    assert display_module.with_name("a", "a:variant") == "a: a:variant"


def test_every_run_that_is_under_way_has_its_status_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainBatchDisplay(["waits", "builds", "predicts", "ended"])
    display.set_state("builds", "step 1")
    display.finish("ended", "done")
    with display.display("predicts", lambda: None).images(4, 1):
        display._say_status()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["ended: done", "builds:   step 1", "predicts:   1 of 4 images"]
