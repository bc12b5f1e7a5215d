"""Shards of a run: their size, and which of them are missing."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan

USUAL_SHARD = 64
MANY_SHARDS = 128
"""So many that the last ones keep eight workers busy to the end, whatever the images cost: see bench/many_gpus.py."""
FEW_IMAGES, FEW_SHARDS = 4, 16
"""Of so few images a shard's own cost is felt, so there are no smaller shards unless there would be too few of them."""
MOST_SHARDS = 4096
"""Folders with many more entries make a network file system crawl."""


def default_shard_size(images: int, batch_size: int = 1) -> int:
    """Images per shard, in whole batches: never by the workers, so that results do not depend on them."""
    least = min(FEW_IMAGES, math.ceil(images / FEW_SHARDS))
    most = USUAL_SHARD * math.ceil(images / (MOST_SHARDS * USUAL_SHARD))
    wanted = max(1, least, min(most, math.ceil(images / MANY_SHARDS)))
    return math.ceil(wanted / batch_size) * batch_size


def missing_shards(plan: Plan, paths: RunPaths) -> list[int]:
    """Shards without a whole file of this plan; leftovers of writes that were cut off are deleted."""
    for leftover in paths.shards.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    digest = plan.digest()
    return [number for number in plan.shards if not is_done(paths.shard(number), digest, plan.size_of(number))]


def is_done(path: Path, plan: str, images: int) -> bool:
    """Whether the file is a whole shard of the plan of that digest, with so many images."""
    if not path.exists():
        return False
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as shard:
            meta = json.loads(str(shard["meta"][()]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    return bool(meta.get("plan") == plan and meta.get("images") == images)
