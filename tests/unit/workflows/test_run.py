"""A run that is complete already, and one whose results are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RunError
from orchestrator.paths import RunPaths
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.run import _find_outcome
from tests.unit.dispatch.slurm_samples import begun, complete, make_plan


def test_what_is_complete_is_said_and_what_is_damaged_is_collected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    display, lines = SilentDisplay(), list[str]()
    monkeypatch.setattr(display, "say", lines.append)
    paths: RunPaths = begun(tmp_path, make_plan(tmp_path), job=None)
    assert _find_outcome(paths, {"shard_size": 2}, display) is None
    assert lines == [], "nothing was collected yet"
    summary = complete(paths)
    paths.unpacked.mkdir()
    outcome = _find_outcome(paths, {"shard_size": 2}, display)
    assert outcome is not None
    assert outcome.summary == summary
    assert lines == [f"{paths.root} is complete already"]
    assert not paths.unpacked.exists()
    paths.predictions.write_bytes(b"others")
    with pytest.raises(RunError, match="is damaged or missing"):
        _find_outcome(paths, {"shard_size": 2}, display)
    paths.shards.mkdir(exist_ok=True)
    paths.shard(0).touch()
    assert _find_outcome(paths, {"shard_size": 2}, display) is None
    assert lines[1].endswith("is damaged or missing; collecting the shards again")
    assert not paths.summary.exists()
