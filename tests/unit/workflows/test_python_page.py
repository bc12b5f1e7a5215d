"""The blocks of docs/python.md run in order, as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.system.container_engine import connect
from orchestrator.workflows.demo.scenes import write_scenes

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


def test_the_page_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    write_scenes(tmp_path / "scenes", range(4))
    (tmp_path / "photos").mkdir()
    for scene in (tmp_path / "scenes").rglob("*.png"):
        scene.rename(tmp_path / "photos" / scene.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///none.sock")
    connect.cache_clear()  # of an engine that an earlier test found
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    connect.cache_clear()
    out = capsys.readouterr().out
    assert "<Run of garments-tiny: 4 images predicted, 0 failed" in out
    assert re.search(r"^0 \(\d+, 4\) 0 $", out, re.MULTILINE)
