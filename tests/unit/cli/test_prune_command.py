"""`orch prune` removes what it found only where that was agreed to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import typer

from orchestrator import workflows
from orchestrator.cli import main
from orchestrator.workflows.prune.leftovers import Leftover, Pruned

Captured = pytest.CaptureFixture[str]
FOUND = Leftover("log", "old.log", 2_000_000, "older than 30 days", lambda: None)


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[Leftover]:
    """What was removed; one leftover is found."""
    done: list[Leftover] = []

    def remove(leftovers: Sequence[Leftover]) -> Pruned:
        done.extend(leftovers)
        return Pruned(tuple(leftovers), ())

    monkeypatch.setattr(workflows, "find_leftovers", lambda catalog, scope: ([FOUND], []))
    monkeypatch.setattr(workflows, "remove_leftovers", remove)
    return done


def test_a_dry_run_removes_nothing_and_yes_removes_all(removed: list[Leftover], capsys: Captured) -> None:
    assert main(["prune", "--dry-run", "--yes"]) == 0
    assert removed == []
    assert "old.log" in capsys.readouterr().out
    assert main(["prune", "--yes"]) == 0
    assert removed == [FOUND]
    assert "removed 1, 0.00 GB at most" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [False, True])
def test_a_terminal_is_asked(removed: list[Leftover], monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda question, err: answer)
    assert main(["prune"]) == 0
    assert removed == [FOUND] * answer


def test_no_answer_is_no_bug(removed: list[Leftover], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def give_up(*_: object, **__: object) -> bool:
        raise typer.Abort  # as for Ctrl-C and Ctrl-D

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", give_up)
    assert main(["prune"]) == 130
    assert removed == []
    assert "error: nothing was removed" in capsys.readouterr().err


def test_nobody_is_asked_about_nothing(
    removed: list[Leftover], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(workflows, "find_leftovers", lambda catalog, scope: ([], []))
    assert main(["prune"]) == 0
    assert capsys.readouterr() == ("", "nothing to remove\n")
    assert removed == []
