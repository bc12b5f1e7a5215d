"""`orch run --dry-run`: it says what a run would do, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two images and a text file, in an empty working folder with an empty cache."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_it_says_what_would_happen_and_does_nothing(photos: Path, tmp_path: Path, capsys: Captured) -> None:
    code = main(["run", "garments-tiny", str(photos), "--runtime", "venv", "--dry-run", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == found["exit_code"] == 0
    assert (found["images"], found["shards"], found["begun"]) == (2, 2, False)
    assert sum(found["skipped"].values()) == 1
    assert found["environment"]["built"] is False
    assert {need["what"].split()[0] for need in found["disk"]} == {"predictions", "building"}
    assert found["estimated_seconds"] is None
    assert list((tmp_path / "work").iterdir()) == []
    assert not (tmp_path / "home" / "envs").exists()


def test_people_read_sentences(photos: Path, capsys: Captured) -> None:
    assert main(["run", "garments-tiny", str(photos), "--runtime", "venv", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "garments-tiny: 2 images, in 2 shards; 1 skipped: not an image: .txt" in said
    assert "to be built" in said
    assert "time: not known" in said


def test_what_a_run_would_refuse_is_refused(photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", "garments-tiny", str(photos), "--device", "cuda", "--dry-run"]) == 4
    assert "--device cpu" in capsys.readouterr().err
    assert main(["run", "garments-tiny", "/none", "--dry-run"]) == 2
    assert main(["run", "garments-tiny", str(photos), "--set", "nonsense=1", "--dry-run"]) == 2
    assert main(["run", "-f", "orch.yaml", "--dry-run"]) == 2
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1 << 20})())
    assert main(["run", "garments-tiny", str(photos), "--runtime", "venv", "--dry-run"]) == 4
    assert "not enough disk space" in capsys.readouterr().err
