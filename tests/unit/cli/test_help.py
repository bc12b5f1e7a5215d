"""Help: panels of commands and of the options of `orch run`, whole sentences, lines that fit the terminal; topics."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import orchestrator
from orchestrator import errors
from orchestrator.cli import app, main
from orchestrator.cli.panels import OTHER
from orchestrator.cli.run import RunCommand, run
from orchestrator.cli.topics import ENVIRONMENT, EXIT_CODES

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
    (line,) = [line for line in lines if "The model, unless" in line]
    assert line.split("  ")[1] == "[MODEL] SOURCE"


@pytest.mark.parametrize("columns", [80, 120])
def test_every_command_is_in_a_panel_with_its_whole_first_sentence(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert f"{OTHER}:" not in out
    assert "..." not in out.split("\n", 1)[1]
    assert max(map(len, out.splitlines())) <= columns
    for group in app.registered_groups:
        assert re.search(rf"^  {group.name} ", out, re.MULTILINE)


def test_help_shows_the_help_of_a_command(capsys: Captured) -> None:
    assert main(["help", "weights", "add"]) == 0
    shown = capsys.readouterr().out
    assert main(["weights", "add", "--help"]) == 0
    assert shown.strip() == capsys.readouterr().out.strip()
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: orch [OPTIONS] COMMAND")


def test_an_unknown_topic_is_an_error_with_a_suggestion(capsys: Captured) -> None:
    assert main(["help", "exit-code"]) == 2
    assert "exit-codes" in capsys.readouterr().err


def test_every_exit_code_is_explained(capsys: Captured) -> None:
    codes = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "exit_code")}
    assert codes | {errors.EXIT_OK, errors.EXIT_SOME_FAILED, errors.EXIT_BUG} == set(EXIT_CODES)
    assert main(["help", "exit-codes"]) == 0
    assert re.search(r"^70 .*bug", capsys.readouterr().out, re.MULTILINE)


def test_every_environment_variable_that_orch_reads_is_explained(capsys: Captured) -> None:
    folder = Path(orchestrator.__file__).parent
    read = re.compile(r"""(?:environ(?:\.get)?[\[(]|^SKIP = )"(ORCH_[A-Z_]+)\"""", re.MULTILINE)
    found = {name for file in folder.rglob("*.py") for name in read.findall(file.read_text(encoding="utf-8"))}
    assert len(found) >= 9
    assert found - set(ENVIRONMENT) == set()
    assert main(["help", "environment"]) == 0
    assert "ORCH_SHARED_HOME" in capsys.readouterr().out


def test_models_takes_a_name(capsys: Captured) -> None:
    assert main(["models", "show", "garments-tiny"]) == 0
    shown = capsys.readouterr().out
    assert main(["models", "garments-tiny"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert main(["models"]) == 0
    assert capsys.readouterr().out == listed


def test_the_first_word_of_run_is_a_model_where_no_option_names_one(capsys: Captured, tmp_path: Path) -> None:
    assert main(["run", "garments-tin", str(tmp_path)]) == 2
    assert "did you mean garments-tiny?" in capsys.readouterr().err
    assert main(["run", "garments-tiny"]) == 2
    assert "orch run --model garments-tiny --images FOLDER" in capsys.readouterr().err
    assert main(["run", str(tmp_path)]) == 2
    assert "no model was given" in capsys.readouterr().err
