"""The help of `orch run`: panels, every option in one of them, examples at the end, lines that fit the terminal."""

from __future__ import annotations

import inspect

import pytest

from orchestrator.cli import main
from orchestrator.cli.run import OTHER, RunCommand, run

Captured = pytest.CaptureFixture[str]


def shown_help(capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["run", "--help"]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_option_is_in_one_panel() -> None:
    listed = [name for names in RunCommand.panels.values() for name in names]
    assert sorted(listed) == sorted(set(inspect.signature(run).parameters) - {"context"})


def test_panels_come_in_order_and_examples_last(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown_help(capsys, monkeypatch)
    titles = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == [*RunCommand.panels, OTHER]
    first, second = [line for line in lines if line.startswith("    orch run ")]
    assert lines[-1] == second
    assert "--model" in first


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal(capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    lines = shown_help(capsys, monkeypatch, columns)
    assert max(map(len, lines)) <= columns


def test_what_is_in_no_panel_is_shown_too(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunCommand, "panels", {"What to run": ("model",)})
    lines = shown_help(capsys, monkeypatch)
    assert any("--workers" in line for line in lines[lines.index(f"{OTHER}:") :])


def test_an_argument_is_named_without_its_type(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown_help(capsys, monkeypatch, 200)
    (line,) = [line for line in lines if "More images" in line]
    assert line.split()[0] == "SOURCE"
