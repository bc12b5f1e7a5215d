"""Shards of a run: how large they are, and which are missing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import MAX_PIXELS
from orchestrator.system import is_regular_file, remove

if TYPE_CHECKING:
    from orchestrator.predictions import ShardRules

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
    """Return the shards that have no whole, valid file of this plan; remove what interrupted writes left."""
    for leftover in paths.shards.glob(".*.tmp"):
        remove(leftover)
    rules = shard_rules(plan) if any(paths.shards.glob("*.npz")) else None
    return [number for number in plan.shards if rules is None or not is_done(paths, plan, rules, number)]


def shard_rules(plan: Plan) -> ShardRules:
    """Return what each shard of a plan must keep."""
    from orchestrator.predictions import ShardRules

    task = plan.task
    return ShardRules(
        plan=plan.digest(),
        meta=plan.predictions_meta(),
        attributes=attribute_columns(plan),
        image_scores=task.has_image_scores,
        max_pixels=MAX_PIXELS,
        masks=task.has_masks,
    )


def attribute_columns(plan: Plan) -> int:
    """Return the number of attributes of each instance."""
    return len(plan.entry.taxonomy.attributes) if plan.entry.spec.defaults.attributes else 0


def is_done(paths: RunPaths, plan: Plan, rules: ShardRules, number: int) -> bool:
    """Return whether a shard is whole, keeps the rules and has its mask files; another one is predicted again."""
    from orchestrator.predictions import ShardFault, check_shard

    path = paths.shard(number)
    if not is_regular_file(path):
        return False
    images = plan.images_of(number)
    try:
        content = check_shard(path, number, [image.file for image in images], rules)
    except ShardFault:
        return False
    return all(
        is_regular_file(kind.in_shard(paths.shards, number, images[position].index))
        or is_regular_file(kind.in_run(paths.root, images[position].file))
        for kind in plan.mask_files
        for position in content.predicted_sizes
    )
