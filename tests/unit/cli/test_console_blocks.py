"""The console blocks of README.md and docs/ run in order, as written; what they need that is not here is in a table."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import MachineError
from orchestrator.system.container_engine import connect
from orchestrator.workflows.demo.scenes import write_scenes

ROOT = Path(__file__).parents[3]
SKIPPED = ("make ", "pip ", "docker ", "orch up", "orch compose", "orch ps", "orch view", "orch --install-completion")
"""Beginnings of commands that are tested elsewhere: engines, shells, packages, Ctrl-C."""
NOT_HERE = {
    "orch doctor": (0, 4),  # this machine may lack something
    "orch plan fformer-swin": (0,),
    "orch run facere photos/ --dry-run": (0,),
    "orch run -m facere -m facere+": (4,),  # weights that are fetched
    "orch run -f orch.yaml": (2,),  # no such file yet: the next step is named
    "orch report result other": (0,),
    "orch weights add fformer-swin FILE.pth": (2,),  # the reader's file
    "orch new model my-maskrcnn": (2,),  # the reader's file
    "orch run --stacks stacks --model my-maskrcnn": (2,),  # the model of that file
    "orch sources fetch": (4,),  # no network
    "orch prune": (0, 2, 4),  # asks
    "orch equivalence fformer-swin": (4,),  # weights by hand
}
"""Exit codes of commands that need weights, a network or an answer, by their beginnings; all others end with 0."""


def console_commands(page: Path) -> list[str]:
    """Return the `orch` commands of a page's console blocks, in order, without comments."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    commands = [line.partition(" #")[0].strip() for line in lines]
    return [command for command in commands if not command.startswith(SKIPPED)]


@pytest.fixture
def beside_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a working folder as `make demo` leaves it; no weights or sources are fetched, no engine is used."""
    write_scenes(tmp_path / "scenes", range(4))
    (tmp_path / "photos").mkdir()
    for scene in (tmp_path / "scenes").glob("*.png"):
        scene.rename(tmp_path / "photos" / scene.name)
    shutil.move(tmp_path / "scenes" / "annotations.json", tmp_path / "truth.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    connect.cache_clear()  # of an engine that an earlier test found
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "none")

    def fetch(url: str, *_: object, **__: object) -> str:
        raise MachineError(f"cannot fetch {url}", why="a test fetches no weights", hint="try again")

    monkeypatch.setattr("orchestrator.catalog.weights.fetch", fetch)
    yield tmp_path
    connect.cache_clear()


@pytest.mark.parametrize("page", ["README.md", "docs/settings.md"])
def test_the_commands_of_a_page_run_in_order(
    page: str, beside_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = console_commands(ROOT / page)
    assert len(commands) >= 5
    for command in commands:
        expected = next((codes for start, codes in NOT_HERE.items() if command.startswith(start)), (0,))
        code = main(shlex.split(command)[1:])
        captured = capsys.readouterr()
        assert code in expected, f"{command}: {code}\n{captured.err}"
        if code:
            assert "next:" in captured.err, f"{command} names no next step:\n{captured.err}"


def test_every_exception_stands_for_a_command() -> None:
    commands = [
        command for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) for command in console_commands(page)
    ]
    for start in NOT_HERE:
        assert any(command.startswith(start) for command in commands), start
