"""Shards: their sizes, and how many attributes their instances have."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.plan.shards import attribute_columns, default_shard_size
from tests.unit.stack_samples import MINIMAL, stack_entry


@pytest.mark.parametrize(("wanted", "columns"), [(None, 0), (False, 0), (True, 3)])
def test_attributes_are_predicted_only_where_the_model_does(tmp_path: Path, wanted: bool | None, columns: int) -> None:
    document: dict[str, Any] = copy.deepcopy(MINIMAL)
    document["taxonomies"]["two"]["attributes"] = ["red", "long", "striped"]
    if wanted is not None:
        document["models"]["tiny-model"]["defaults"] = {"attributes": wanted}
    stack = stack_entry(tmp_path, taxonomies=document["taxonomies"], models=document["models"])
    model = SimpleNamespace(spec=stack.spec.models["tiny-model"], taxonomy=stack.spec.taxonomies["two"])
    plan: Any = SimpleNamespace(entry=model)
    assert attribute_columns(plan) == columns


@pytest.mark.parametrize(
    ("images", "batch", "size"),
    [(1, 1, 1), (16, 1, 1), (17, 1, 2), (64, 1, 4), (512, 1, 4), (513, 1, 5), (8192, 1, 64), (10**5, 1, 64),
     (4096 * 64, 1, 64), (4096 * 64 + 1, 1, 128), (17, 3, 3), (64, 3, 6), (0, 1, 1), (0, 8, 8)],
)  # fmt: skip
def test_shards_are_neither_too_many_nor_too_few(images: int, batch: int, size: int) -> None:
    assert default_shard_size(images, batch) == size
