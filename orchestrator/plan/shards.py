"""Which shards of a run are on disk, whole and of this plan, and which are missing."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan


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
