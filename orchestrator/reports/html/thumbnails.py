"""Small pictures for a page: the image as the run saw it, and masks at the same small size."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from orchestrator.predictions import rle

SIDE = 400  # pixels of the longer side
QUALITY = 74


@dataclass(frozen=True)
class Thumbnail:
    """An image scaled to `width` x `height`; `url` is a data URL with the whole picture."""

    url: str
    width: int
    height: int


def fitted(width: int, height: int) -> tuple[int, int]:
    """The size an image of this size gets on the page."""
    scale = min(1.0, SIDE / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def thumbnail(path: Path, exif: bool) -> Thumbnail:
    """The image file, small; `exif` whether its orientation is applied. OSError or ValueError: it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (SIDE, SIDE))  # a JPEG decoder can leave out what is scaled away
            upright = ImageOps.exif_transpose(image) if exif else image
            small = _eight_bits(upright).resize(fitted(*upright.size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    kind = "WEBP" if features.check("webp") else "JPEG"
    data = io.BytesIO()
    small.save(data, kind, quality=QUALITY)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/{kind.lower()};base64,{text}", *small.size)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image).astype(np.float64)  # 16 bits a pixel: convert() would clip instead of scale
    scaled = values / (257 if values.max(initial=0) > 255 else 1)
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).convert("RGB")


def small_mask(counts: bytes, size: list[int], width: int, height: int) -> list[Any] | None:
    """A mask at `width` x `height` pixels as [x, y, w, h, runs], None when nothing of it is left.

    `runs` are lengths along the columns of that window, outside first. The full mask is never made: each small
    pixel's centre is looked up in the run lengths.
    """
    runs = rle.check(counts, size)
    left, top, right, bottom = rle.bbox(counts, size)
    if right == left:
        return None
    x1, x2 = left * width // size[1], min(width, -(-right * width // size[1]))
    y1, y2 = top * height // size[0], min(height, -(-bottom * height // size[0]))
    x = ((np.arange(x1, x2) + 0.5) * size[1] / width).astype(np.int64)
    y = ((np.arange(y1, y2) + 0.5) * size[0] / height).astype(np.int64)
    places = x[:, None] * size[0] + y
    inside = np.searchsorted(np.cumsum(runs), places, side="right") % 2 == 1
    lengths = _lengths(inside.reshape(-1))
    return [x1, y1, x2 - x1, y2 - y1, lengths] if len(lengths) > 1 else None


def _lengths(inside: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs of equal values, beginning with a run of False (of length 0 where there is none)."""
    padded = np.concatenate(([False], inside))
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    lengths: list[int] = np.diff(np.concatenate(([0], changes, [len(inside)]))).tolist()
    return lengths
