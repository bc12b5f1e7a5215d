"""Intakes for tests of the dispatcher whose workers write no shards, and shards for those of the intake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.dispatch.shard_intake import Images, Intake
from orchestrator.paths import GuestFolder
from orchestrator.plan.plan import Plan
from orchestrator.predictions import rle
from orchestrator.predictions.schema import SHARD_FORMAT
from orchestrator.predictions.shard_check import ShardContent, ShardFault

HEIGHT, WIDTH = 12, 20


class TrustingIntake(Intake):
    """Takes every shard; those of `faults` are refused until their list is empty."""

    def __init__(self, faults: Mapping[int, list[ShardFault]] | None = None) -> None:
        self.faults = dict(faults or {})
        self.failed: dict[int, str] = {}

    def take(self, out: GuestFolder, number: int, images: Images) -> ShardContent | None:
        if self.faults.get(number):
            raise self.faults[number].pop(0)
        return ShardContent(len(images), 0, 0)

    def take_parts(self, out: GuestFolder, shards: Mapping[int, Images]) -> None:
        pass

    def give_part(self, out: GuestFolder, number: int) -> None:
        pass

    def fail(self, number: int, reason: str) -> ShardContent:
        self.failed[number] = reason
        return ShardContent(0, 0, 0)


def shard_of(plan: Plan, number: int, images: int | None = None) -> dict[str, Any]:
    """A valid shard of a plan: one instance of category 7 in each image; `images`: a part with only so many."""
    files = [image.file for image in plan.images_of(number)][:images]
    count = len(files)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:6, 3:9] = True
    counts = rle.encode(mask)
    meta = {"format": SHARD_FORMAT, "shard": number, "plan": plan.digest(), "images": count}
    arrays: dict[str, Any] = {
        "image_file": np.array(files),
        "image_sha256": np.ones((count, 32), np.uint8),
        "image_size": np.full((count, 2), (HEIGHT, WIDTH), np.int32),
        "status": np.zeros(count, np.uint8),
        "error": np.array([""] * count),
        "offsets": np.arange(count + 1, dtype=np.int64),
        "boxes": np.full((count, 4), (3, 2, 9, 6), np.float32),
        "classes": np.full(count, 7, np.int32),
        "scores": np.full(count, 0.5, np.float32),
        "masks": np.frombuffer(counts * count, np.uint8),
        "mask_offsets": np.arange(count + 1, dtype=np.int64) * len(counts),
        "meta": np.array(json.dumps(meta)),
    }
    if plan.has_pictures:
        arrays["image_scores"] = np.full(count, 0.5, np.float32)
    return arrays


def write_shard(out: Path, number: int, arrays: dict[str, Any], part: bool = False) -> Path:
    """Write a shard as the runner does."""
    path = out / f"{number:05d}{'.part' if part else ''}.npz"
    np.savez(path, **arrays)
    return path
