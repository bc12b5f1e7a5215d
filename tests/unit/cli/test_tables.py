"""Tables in a terminal: as wide as their figures need, transposed where that is too wide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.cli.tables import print_figures, print_table, write_or_print
from orchestrator.reports.tables import Cell, Table

Captured = pytest.CaptureFixture[str]
TABLE = Table(
    "runs",
    ("model", "AP", "AP of small ones"),
    (
        (Cell("short", "short"), Cell("0.5", 0.5), Cell("0.25", 0.25)),
        (Cell("a-model-with-a-very-long-name", "x"), Cell("0.612", 0.612, best=True), Cell("–", None)),
    ),
)
NEEDED = 16 + 5 + 10 + 3 * 3
"""Columns: the name, cut to 16; the longest figure; the start of a long head; three between two columns."""


def printed(monkeypatch: pytest.MonkeyPatch, capsys: Captured, width: int) -> str:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    print_figures([TABLE])
    return capsys.readouterr().out


def lines_of(text: str) -> list[list[str]]:
    return [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]


def test_a_table_that_fits_has_a_row_per_run(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for width in (NEEDED, 120):
        lines = lines_of(printed(monkeypatch, capsys, width))
        assert ["short", "0.5", "0.25"] in lines
        assert any(line[:2] == ["model", "AP"] for line in lines)


def test_a_table_that_does_not_fit_has_a_row_per_figure(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    lines = lines_of(printed(monkeypatch, capsys, NEEDED - 1))
    assert ["AP", "0.5", "0.612"] in lines
    assert ["short", "0.5", "0.25"] not in lines


def test_the_best_is_bold(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(monkeypatch, capsys, 120)
    assert re.search(r"\x1b\[1m\s*0\.612", text)
    assert not re.search(r"\x1b\[1m\s*0\.5", text)


def test_elsewhere_tables_are_lines_with_tabs(capsys: Captured) -> None:
    print_figures([TABLE])
    assert capsys.readouterr().out.splitlines() == [
        "model\tAP\tAP of small ones",
        "short\t0.5\t0.25",
        "a-model-with-a-very-long-name\t0.612\t–",
    ]
    print_table(["a", "b"], [["1", "2\t3"]])
    assert capsys.readouterr().out == "a\tb\n1\t2\\t3\n"


def test_text_is_printed_or_written(tmp_path: Path, capsys: Captured) -> None:
    write_or_print("one\ntwo\n", None)
    assert capsys.readouterr() == ("one\ntwo\n", "")
    write_or_print("one\ntwo\n", tmp_path / "x.md")
    assert (tmp_path / "x.md").read_text() == "one\ntwo\n"
    assert capsys.readouterr() == ("", f"wrote {tmp_path / 'x.md'}\n")


ROWS = [["amrcnn-r50-fpn", "instance-segmentation", "Attribute Mask R-CNN with 294 attributes, see the paper", "ready"]]


@pytest.mark.parametrize(("width", "has_task"), [(120, True), (60, False)])
def test_names_are_never_folded(monkeypatch: pytest.MonkeyPatch, capsys: Captured, width: int, has_task: bool) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(["model", "task", "title", "weights"], ROWS, optional=["task"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    words = text.split()
    assert {"amrcnn-r50-fpn", "ready", "attributes,"} <= set(words)
    assert ("instance-segmentation" in words) == has_task
    assert all(len(line) <= width for line in text.splitlines())


def test_columns_move_together_before_a_figure_is_folded(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    columns = ["category", "images", "instances", "AP", "AP50", "AP75", "AR100", "TP", "FP", "FN", "weight"]
    row = ["trousers", "1000", "1000", "0.739", "0.913", "0.813", "0.771", "29", "45", "2", "0.145"]
    monkeypatch.setenv("COLUMNS", "80")
    print_table(columns, [row])
    assert row in lines_of(capsys.readouterr().out)
