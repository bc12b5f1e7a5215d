"""Foreign text reaches neither a terminal nor a CI log raw: one function escapes it, and nothing prints around it."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import orchestrator
from orchestrator.cli import common, tables
from orchestrator.cli.progress import RichDisplay, TableBatchDisplay
from orchestrator.errors import RunError
from orchestrator.reports.job_summary import escape_cell
from orchestrator.reports.junit import escape
from orchestrator.reports.tables import Cell, Table
from orchestrator.system.display import PlainBatchDisplay, PlainDisplay, StatusDisplay, printable

CHOKE_POINTS = {"system/display.py", "cli/common.py", "cli/tables.py", "cli/progress.py"}
PRINTERS = {"print", "secho", "echo"}
HOSTILE = "a\x1b]0;title\x07b\nc\r::error file=x::no\x9b31m\u202egpj.\u2028##[error]x\x00.jpg"
SHOWN = "a\\x1b]0;title\\x07b\\nc\\r::error file=x::no\\x9b31m\\u202egpj.\\u2028#\\x23[error]x\\x00.jpg".replace(
    "#\\x23[", "\\x23#["
)


def is_harmless(text: str) -> bool:
    lines = text.split("\n")
    return (
        all(printable(line) == line for line in lines)
        and not any(line.lstrip().startswith("::") for line in lines)
        and "##[" not in text
    )


def test_a_line_holds_no_instruction() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("  ::error::x") == "  \\x3a:error::x"
    assert printable("##vso[task]") == "\\x23#vso[task]"
    assert printable("naïve ‘text’ – 図 \ttab :: 1") == "naïve ‘text’ – 図 \ttab :: 1"
    assert printable(printable(HOSTILE)) == printable(HOSTILE)


def test_errors_and_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    common.say(HOSTILE)
    common.show_line(HOSTILE)
    common.print_error(RunError(HOSTILE, why=f"first\n{HOSTILE}\n::error::x", log=HOSTILE, hint=HOSTILE), HOSTILE)
    tables.print_table(["a"], [["::warning::x", HOSTILE, "tab\there"]])
    tables.print_figures([Table(HOSTILE, ("x",), ((Cell(HOSTILE, None),),))])
    tables.write_or_print(f"::error::x\n{HOSTILE}\n", None)
    printed = capsys.readouterr()
    assert is_harmless(printed.out.replace("\t", ""))
    assert is_harmless(printed.err)
    assert printed.err.startswith(f"{SHOWN}\nerror: {SHOWN}: {SHOWN}\n  why:  first\n        a\\x1b")
    assert "\t" in printed.out
    assert "tab\\there" in printed.out


def say_plain() -> None:
    PlainDisplay().say(HOSTILE)


def say_detail() -> None:
    display = PlainDisplay()
    display._spoken -= 60
    display.detail(HOSTILE)


def say_batch() -> None:
    PlainBatchDisplay(["m"]).say("m", HOSTILE)


@pytest.mark.parametrize("say", [say_plain, say_detail, say_batch])
def test_plain_displays_escape(say: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    say()
    printed = capsys.readouterr().err
    assert "\\x1b" in printed
    assert is_harmless(printed)


def test_terminal_displays_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    display, batch = RichDisplay(), TableBatchDisplay(["m"])
    console = Console(file=stream, width=400, highlight=False)
    monkeypatch.setattr(display, "_console", console)
    monkeypatch.setattr(batch, "_console", console)
    display.say(HOSTILE)
    batch.say("m", HOSTILE)
    StatusDisplay(batch.runs["m"], batch.say, lambda: None).detail(HOSTILE)
    console.print(batch.table())
    printed = stream.getvalue()
    assert printed.count("\\x1b]0;title") == 3
    assert is_harmless(printed)


def test_a_table_in_a_terminal_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "300")
    tables.print_table(["a"], [["x\x1b[2Jy\rz"]])
    assert "x\\x1b[2Jy\\rz" in stream.getvalue()


def test_reports_for_ci_are_escaped() -> None:
    assert escape("a\x1b\x9b\n\u202eb") == "a\\x1b\\x9b\n\\u202eb"
    assert "\x1b" not in escape_cell(HOSTILE)
    assert "\u202e" not in escape_cell(HOSTILE)


def printing_calls(path: Path) -> list[str]:
    """The calls in a module that print: print(), something.print(), typer.echo(), sys.stderr.write()."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = []
    for call in calls:
        name = ast.unparse(call.func)
        last = name.rpartition(".")[2]
        if last in PRINTERS or name in ("sys.stderr.write", "sys.stdout.write", "sys.stdout.buffer.write"):
            names.append(f"{path.name}:{call.lineno} {name}")
    return names


def test_nothing_prints_outside_the_choke_points() -> None:
    root = Path(orchestrator.__file__).parent
    calls = {path.relative_to(root).as_posix(): printing_calls(path) for path in root.rglob("*.py")}
    assert {name for name, found in calls.items() if found and "templates/" not in name} == CHOKE_POINTS
