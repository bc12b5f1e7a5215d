"""Copy rows of finished shards into a shard of another plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions.npz import NpzWriter, open_arrays
from orchestrator.predictions.schema import PAIRED, SCHEMA, SHARD_FORMAT, STATUS_FAILED


class ShardRows:
    """The rows of one shard or part, read into memory."""

    def __init__(self, path: Path) -> None:
        """Raises OrchError, KeyError, ValueError for a file that cannot be read."""
        opened = open_arrays(path)
        self.arrays: dict[str, NDArray[Any]] = {name: opened[name] for name in opened}
        self.plan = json.loads(str(self.arrays["meta"][()]))["plan"]
        """Digest of the plan that the rows belong to."""

    def has_predicted(self, position: int, file: str) -> bool:
        """Return whether the image at this position is the named one, and was predicted."""
        files, status = self.arrays["image_file"], self.arrays["status"]
        return position < len(files) and files[position] == file and bool(status[position] != STATUS_FAILED)

    def slice(self, name: str, position: int) -> NDArray[Any]:
        """Return what an array holds of one image; of offsets, the lengths."""
        arrays, offsets = self.arrays, self.arrays["offsets"]
        rows = slice(int(offsets[position]), int(offsets[position + 1]))
        if name == "offsets":
            return np.array([rows.stop - rows.start], np.int64)
        if name == "mask_offsets":
            return np.diff(arrays[name][rows.start : rows.stop + 1])
        if name == "masks":
            lengths = arrays["mask_offsets"]
            return arrays[name][int(lengths[rows.start]) : int(lengths[rows.stop])]
        per_instance = next(spec for spec in SCHEMA if spec.name == name).shape[0] == "N"
        return arrays[name][rows] if per_instance else arrays[name][position : position + 1]


def write_rows(target: Path, number: int, plan: str, rows: Sequence[tuple[ShardRows, int]]) -> None:
    """Write a shard, or the part of one, from at least one row: shards and positions in them, in order."""
    with NpzWriter(target, compress=False) as writer:
        for spec in SCHEMA:
            holding = [(shard, position) for shard, position in rows if spec.name in shard.arrays]
            if spec.name == "meta" or not holding:
                continue
            if len(holding) < len(rows) and spec.name not in PAIRED:
                raise ValueError(f"only some of the shards have the array {spec.name!r}")
            array = np.concatenate([shard.slice(spec.name, position) for shard, position in holding])
            if spec.name in ("offsets", "mask_offsets"):
                array = np.concatenate((np.zeros(1, np.int64), np.cumsum(array, dtype=np.int64)))
            writer.write_array(spec.name, array)
        meta = {"format": SHARD_FORMAT, "shard": number, "plan": plan, "images": len(rows)}
        writer.write_array("meta", np.array(json.dumps(meta)))
