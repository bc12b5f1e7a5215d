"""Update a folder's run to other images or another model: rows that a fresh run would give again are kept.

A row is kept where its batch keeps the same images. The new run is written into the folder update/ first; once its
run.json is there, `finish_update` puts it into place, again after an interruption.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchError
from orchestrator.inputs import InputImage
from orchestrator.paths import RunPaths
from orchestrator.plan.changes import Changes, match_images
from orchestrator.plan.plan import Plan
from orchestrator.plan.run_directory import finish_update, run_document
from orchestrator.predictions import MaskFiles
from orchestrator.system import is_regular_file, remove, write_json

if TYPE_CHECKING:
    from orchestrator.predictions import ShardRows

_Row = tuple["ShardRows", int]
"""A shard and a position in it."""


def update_run(
    paths: RunPaths, plan: Plan, earlier: Mapping[str, Any], changes: Changes, notes: Mapping[str, Any]
) -> int:
    """Make the folder's run that of `plan`; return the number of images whose rows are kept."""
    new = RunPaths(paths.update)
    shutil.rmtree(new.root, ignore_errors=True)
    new.shards.mkdir(parents=True)
    kept = 0
    if not changes.model and int(earlier["shard_size"]) == plan.shard_size:
        kept = _KeptRows(paths, plan, earlier, match_images(paths, earlier, plan.inputs)).write(new)
    plan.inputs.images.save(new.inputs)
    write_json(new.run_json, run_document(plan, notes))
    if not kept:
        remove(paths.events)  # the versions in it are those of another model
    finish_update(paths)
    return kept


class _KeptRows:
    """The rows of the folder's run that its update keeps."""

    def __init__(self, paths: RunPaths, plan: Plan, earlier: Mapping[str, Any], matched: array[int]) -> None:
        """`earlier` is run.json so far; `matched`: for each image of the plan its index in that run, or -1."""
        self._paths, self._plan, self._matched = paths, plan, matched
        self._count, self._plan_before = earlier["resolved"]["inputs"]["count"], earlier["plan"]
        self._is_batched = plan.request.batch_size > 1
        self._read = lru_cache(maxsize=3)(self._read_rows)

    def write(self, new: RunPaths) -> int:
        """Write kept rows as shards, and as parts where the rest of a shard is missing; return their number."""
        from orchestrator.predictions import write_rows

        count, digest = 0, self._plan.digest()
        for shard in self._plan.shards:
            rows = self._kept_rows(shard)
            if not rows:
                continue
            is_whole = len(rows) == self._plan.size_of(shard)
            if not self._link_mask_files(new, shard, len(rows)):
                continue
            try:
                write_rows(new.shard(shard) if is_whole else new.part(shard), shard, digest, rows)
            except (OSError, ValueError, KeyError, IndexError):  # damaged rows are predicted again
                continue
            count += len(rows)
        return count

    def _kept_rows(self, shard: int) -> list[_Row]:
        """Return the rows at the beginning of a new shard that a fresh run would give again."""
        size = self._plan.shard_size
        start, stop = shard * size, shard * size + self._plan.size_of(shard)
        rows: list[_Row] = []
        for index, image in enumerate(self._plan.images_of(shard), start):
            before = self._matched[index]
            # In batches, an image must stay where it was in its shard: then its batch has the same images.
            if before < 0 or (self._is_batched and before % size != index - start):
                break
            if self._is_batched and rows and before // size != self._matched[start] // size:
                break
            source = self._read(before // size)
            if source is None or not source.has_predicted(before % size, image.file):
                break
            rows.append((source, before % size))
        is_whole = len(rows) == stop - start
        if self._is_batched and is_whole and len(rows) != min(size, self._count - self._matched[start] // size * size):
            is_whole = False  # its last batch had other images
        at_once = self._plan.request.batch_size
        return rows if is_whole else rows[: min(len(rows), stop - start - 1) // at_once * at_once]

    def _read_rows(self, shard: int) -> ShardRows | None:
        from orchestrator.predictions import ShardRows

        for path in (self._paths.shard(shard), self._paths.part(shard)):
            with suppress(OrchError, OSError, ValueError, KeyError, TypeError):
                rows = ShardRows(path) if is_regular_file(path) else None
                if rows is not None and rows.plan == self._plan_before:
                    return rows
        return None

    def _link_mask_files(self, new: RunPaths, shard: int, count: int) -> bool:
        """Link the mask files of the first `count` images of a shard; False where one is missing."""
        for kind in self._plan.mask_files:
            for image in self._plan.images_of(shard)[:count]:
                source = self._find_mask_file(kind, image)
                if source is None:
                    return False
                target = kind.in_shard(new.shards, shard, image.index)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target)
        return True

    def _find_mask_file(self, kind: MaskFiles, image: InputImage) -> Path | None:
        before = self._matched[image.index]
        shard = before // self._plan.shard_size
        found = (kind.in_run(self._paths.root, image.file), kind.in_shard(self._paths.shards, shard, before))
        return next((path for path in found if is_regular_file(path)), None)
