"""Shards of a run: how large they are, and which are missing."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan

USUAL_SHARD = 64
MANY_SHARDS = 128  # shards of a usual run: enough to keep eight workers busy until the end; see bench/many_gpus.py
FEW_IMAGES, FEW_SHARDS = 4, 16
"""A shard has its own cost: shards are not smaller than FEW_IMAGES unless there would be fewer than FEW_SHARDS."""
MOST_SHARDS = 4096  # most shards of a run: network file systems are slow with more files in a folder


def default_shard_size(images: int, batch_size: int = 1) -> int:
    """Return the images per shard, in whole batches. Results must not depend on the number of workers."""
    least = min(FEW_IMAGES, math.ceil(images / FEW_SHARDS))
    most = USUAL_SHARD * math.ceil(images / (MOST_SHARDS * USUAL_SHARD))
    wanted = max(1, least, min(most, math.ceil(images / MANY_SHARDS)))
    return math.ceil(wanted / batch_size) * batch_size


def missing_shards(plan: Plan, paths: RunPaths) -> list[int]:
    """Return the shards that have no complete file of this plan; remove what interrupted writes left."""
    for leftover in paths.shards.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    digest = plan.digest()
    return [number for number in plan.shards if not is_done(paths.shard(number), digest, plan.size_of(number))]


def is_done(path: Path, plan: str, images: int) -> bool:
    """Return whether a file is a complete shard of `images` images; `plan` is the digest of its plan."""
    if not path.exists():
        return False
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as shard:
            meta = json.loads(str(shard["meta"][()]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
    return bool(meta.get("plan") == plan and meta.get("images") == images)
