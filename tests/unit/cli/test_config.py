"""Settings files: defaults of options from the user's file and the working folder's, and who may set what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import paths
from orchestrator.cli import config, main
from orchestrator.cli.completion import RUNTIME_NAMES
from orchestrator.runtimes import RUNTIMES

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's file, beside a working folder."""
    file = tmp_path / "config" / "config.toml"
    file.parent.mkdir()
    monkeypatch.setattr(config, "user_settings_file", lambda: file)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return file


def test_flags_win_over_the_folder_and_the_folder_over_the_user(own: Path, capsys: Captured) -> None:
    own.write_text('device = "cuda"\n')
    assert main(["plan", "garments-tiny"]) == 4
    assert "ask for the CPU: --device cpu" in capsys.readouterr().err
    Path("orch.toml").write_text('device = "GPU-nonsense"\n')
    assert main(["plan", "garments-tiny"]) == 4
    assert "nonsense" in capsys.readouterr().err
    assert main(["plan", "garments-tiny", "--device", "cpu"]) == 0


def test_paths_are_relative_to_the_file(own: Path, capsys: Captured) -> None:
    own.write_text('stacks = ["mine"]\n')
    assert config.read_settings()["stacks"].value == [str(own.parent / "mine")]
    assert main(["models"]) == 2
    assert str(own.parent / "mine") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device = [", "cannot read the settings"),
        ("devise = 'cpu'", "did you mean device?"),
        ("workers = 'two'", "workers has the wrong type"),
        ("workers = true", "workers has the wrong type"),
        ("stacks = 'one'", "stacks has the wrong type"),
        ("stacks = [1]", "stacks has the wrong type"),
        ("runtime = 'dokcer'", "did you mean docker?"),
        ("executor = 'sge'", "unknown executor 'sge'"),
        ("device = '0 1'", "unknown device '0 1'"),
        ("memory = 'lots'", "must be a size"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(own: Path, capsys: Captured, text: str, words: str) -> None:
    own.write_text(text)
    assert main(["models"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(own) in error


@pytest.mark.parametrize("name", [name for name, setting in config.SETTINGS.items() if not setting.in_folder])
def test_a_cloned_folder_chooses_no_programs(own: Path, capsys: Captured, name: str) -> None:
    Path("orch.toml").write_text(f"{name} = ['x']\n" if name == "stacks" else f"{name} = 'x'\n")
    assert main(["models"]) == 2
    assert f"{name} is not allowed here" in capsys.readouterr().err


def test_show_says_where_each_value_comes_from(own: Path, capsys: Captured) -> None:
    own.write_text('workers = 2\nruntime = "venv"\n')
    Path("orch.toml").write_text("workers = 3\n")
    assert main(["config", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"] == {
        "workers": {"value": 3, "file": "orch.toml"},
        "runtime": {"value": "venv", "file": str(own)},
    }
    assert main(["config", "show"]) == 0
    assert "orch.toml" in capsys.readouterr().out


def test_every_setting_is_an_option_of_some_command() -> None:
    import typer.main

    from orchestrator.cli import app

    group = typer.main.get_command(app)
    names = {param.name for command in group.commands.values() for param in command.params}  # type: ignore[attr-defined]
    assert set(config.SETTINGS) <= names


def test_the_user_file_is_in_the_configuration_folder() -> None:
    assert paths.user_settings_file().name == "config.toml"


def test_a_value_out_of_range_is_an_error_that_names_the_file(own: Path, capsys: Captured) -> None:
    own.write_text("workers = 0\n")
    assert main(["run", "garments-tiny", "photos"]) == 2
    error = capsys.readouterr().err
    assert "--workers" in error
    assert f"{own} says so" in error
    assert main(["run", "garments-tiny", "photos", "--workers", "-1"]) == 2
    assert "says so" not in capsys.readouterr().err


def test_the_names_of_runtimes_are_those_of_the_registry() -> None:
    assert set(RUNTIME_NAMES) == {"auto", *RUNTIMES}
