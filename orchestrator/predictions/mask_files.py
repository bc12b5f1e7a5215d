"""The mask files of a manipulation run: a probability picture, and on request a canvas mask, for each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.predictions.output_names import path_below

EXTRA_BYTES = 1 << 16
"""Bytes beyond those of the pixels; of pictures these are one and a quarter per pixel: more is no compression."""
KEEP_CANVAS = "keep_canvas"
"""The setting that has a run keep canvas masks."""


@dataclass(frozen=True)
class MaskFiles:
    """One kind of mask files: the folder that has one for each predicted image, in a run and in shards."""

    folder: str
    suffix: str
    words: str
    side: int = 0
    """Of canvas masks: the most rows and columns."""

    def in_shard(self, shards: Path, shard: int, index: int) -> Path:
        """Return the file of an image below the folder of shards."""
        return shards / self.folder / f"{shard:05d}" / f"{index:08d}{self.suffix}"

    def in_run(self, run: Path, file: str) -> Path:
        """Return the file of an image in the run directory. Raises PredictionsError."""
        return path_below(run / self.folder, file, self.suffix)

    def most_bytes(self, size: tuple[int, int]) -> int:
        """Return the most bytes that a file may have, of an image of `size` (height, width)."""
        pixels = size[0] * size[1]
        return (4 * self.side**2 if self.side else pixels * 5 // 4) + EXTRA_BYTES


PICTURES = MaskFiles("masks", ".png", "mask picture")
CANVASES = MaskFiles("canvas", ".npy", "canvas mask")
