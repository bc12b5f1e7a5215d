"""A shard file counts only where it is whole, uncompressed and of the expected plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.predictions.shard_check import ShardFault, ShardRules, check_shard
from tests.unit.predictions.predictions_samples import COUNTS, FILES, META, SIZES, sample_arrays, shard_arrays

RULES = ShardRules("plan", META, attributes=2, image_scores=True, max_pixels=10_000)


def test_a_shard_that_keeps_the_rules_is_counted(tmp_path: Path) -> None:
    arrays: Any = shard_arrays(sample_arrays(), 1, 4, 7)
    np.savez(tmp_path / "s.npz", **arrays)
    found = check_shard(tmp_path / "s.npz", 7, FILES[1:], RULES)
    assert (found.images, found.failed, found.instances) == (3, 1, sum(COUNTS[1:]))
    assert found.predicted_sizes == {0: SIZES[1], 2: SIZES[3]}
    with pytest.raises(ShardFault, match="more than 1499 pixels") as caught:
        check_shard(tmp_path / "s.npz", 7, FILES[1:], replace(RULES, max_pixels=1499))
    assert set(caught.value.images) == {0, 2}


def test_a_compressed_shard_is_refused_whether_that_made_it_smaller_or_not(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "small.npz", zeros=np.zeros(1 << 17, np.uint8))
    with pytest.raises(ShardFault, match="its arrays claim more bytes than the file has"):
        check_shard(tmp_path / "small.npz", 0, FILES, RULES)
    noise = np.random.default_rng(0).bytes(1 << 17)
    np.savez_compressed(tmp_path / "large.npz", noise=np.frombuffer(noise, np.uint8))
    with pytest.raises(ShardFault, match="is no uncompressed array"):
        check_shard(tmp_path / "large.npz", 0, FILES, RULES)
