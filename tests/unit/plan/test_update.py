"""Which rows of a folder's run an update keeps, shard by shard."""

from __future__ import annotations

from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.paths import RunPaths
from orchestrator.plan import update


@pytest.mark.parametrize(
    ("matched", "count", "batch_size", "kept"),
    [
        ([0, 1, 2, 3], 9, 1, 4),
        ([0, 1, 2, 3], 9, 2, 4),
        ([0, 1, 2, -1], 9, 1, 3),
        ([0, 1, 2, -1], 9, 2, 2),
        ([0, -1, 2, 3], 9, 1, 1),
        ([0, -1, 2, 3], 9, 2, 0),
        ([1, 2, 3, 4], 9, 1, 4),
        ([1, 2, 3, 4], 9, 2, 0),
        ([0, 1, 2], 3, 2, 3),
        ([0, 1, 2], 9, 2, 2),
    ],
)
def test_whole_batches_of_the_same_images_are_kept(
    monkeypatch: pytest.MonkeyPatch, matched: list[int], count: int, batch_size: int, kept: int
) -> None:
    """A shard of up to four images: `matched` are their indices in the run so far, which has `count` images."""
    request = SimpleNamespace(batch_size=batch_size)
    images = [SimpleNamespace(file=f"{index}.png") for index in range(len(matched))]
    plan: Any = SimpleNamespace(
        request=request, shard_size=4, size_of=lambda shard: len(matched), images_of=lambda shard: images
    )
    rows: Any = SimpleNamespace(has_predicted=lambda position, file: True)
    monkeypatch.setattr(update._KeptRows, "_read_rows", lambda self, shard: rows)
    earlier = {"resolved": {"inputs": {"count": count}}, "plan": "before"}
    keeper = update._KeptRows(RunPaths(Path("run")), plan, earlier, array("q", matched))
    assert keeper._kept_rows(0) == [(rows, before % 4) for before in matched[:kept]]
