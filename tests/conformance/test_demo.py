"""The demo does what the README says of it."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator import Predictions
from tests.conformance.conftest import Orch

PAGES = ("page.png", "text.png")


def test_the_demo_scores_and_draws_both_models(orch: Orch, tmp_path: Path) -> None:
    done = orch("demo", "--out", tmp_path / "demo", "--runtime", "venv", "--scenes", 24, "--json")
    result = json.loads(done.stdout)
    assert result["mask_ap"]["ap"] >= 0.45
    assert result["mask_ap"]["images"] == 24
    assert all(Path(picture).stat().st_size > 10_000 for picture in result["pictures"])
    versions = [run["versions"]["numpy"].partition(".")[0] for run in result["runs"].values()]
    assert sorted(versions) == ["1", "2"], "the two stacks' pins conflict on purpose"
    lines = Predictions.load(result["runs"]["ppocr-det"]["predictions"])
    assert all(len(lines[page]["boxes"]) >= 5 for page in PAGES)


def test_the_demo_is_quick_and_the_same_the_second_time(orch: Orch, tmp_path: Path) -> None:
    arguments = ("demo", "--out", tmp_path / "demo", "--runtime", "venv", "--scenes", 4)
    orch(*arguments)
    again = orch(*arguments)
    assert again.stderr.count("is complete already") == 2
    assert "\\n" not in again.stderr, "lines, not their escapes"
