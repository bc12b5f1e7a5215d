"""The photographs of the demo: fetched once, whole or not at all, by a stand-in for the installer."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.paths import home
from orchestrator.workflows.demo import photographs
from orchestrator.workflows.demo.photographs import LOCK, PICTURES, fetch_photographs

UNPACKS = """#!/bin/sh
echo "$*" >> "{calls}"
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/skimage/data"
for name in {names}; do echo "$name" > "$2/skimage/data/$name"; done
echo {says} >&2
exit {code}
"""


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = PICTURES, *, code: int = 0, says: str = ""
) -> Path:
    """Let a script that unpacks these pictures be the installer; the file with its calls."""
    script, calls = folder / "uv", folder / "calls"
    script.write_text(UNPACKS.format(calls=calls, names=" ".join(names), code=code, says=says))
    script.chmod(0o755)
    monkeypatch.setattr(photographs, "find_uv", lambda: str(script))
    return calls


def test_pictures_are_fetched_once_for_all_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install(tmp_path, monkeypatch)
    for name in ("one", "two"):
        assert fetch_photographs(tmp_path / name) == tmp_path / name
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(PICTURES)
        assert (tmp_path / name / "page.png").read_text() == "page.png\n"
    (line,) = calls.read_text().splitlines()
    assert line.endswith(f"-r {LOCK}")
    assert "--require-hashes" in line


def test_pictures_that_are_there_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install(tmp_path, monkeypatch)
    for name in PICTURES:
        (tmp_path / name).write_text("mine")
    assert fetch_photographs(tmp_path) == tmp_path
    (tmp_path / "page.png").unlink()
    fetch_photographs(tmp_path)
    assert (tmp_path / "page.png").read_text() == "page.png\n"
    assert len(calls.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "code", "says", "why"),
    [
        (PICTURES, 1, "no network", "no network"),
        (PICTURES[1:], 0, "", "the package does not contain them"),
    ],
)
def test_pictures_that_cannot_be_fetched_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], code: int, says: str, why: str
) -> None:
    install(tmp_path, monkeypatch, names, code=code, says=says)
    with pytest.raises(MachineError, match="cannot download the photographs") as caught:
        fetch_photographs(tmp_path / "photographs")
    assert caught.value.why == why
    assert not (home() / "demo-pictures").exists()
    assert not (tmp_path / "photographs").exists()
