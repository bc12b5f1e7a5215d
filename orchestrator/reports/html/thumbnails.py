"""Small pictures for the page: the image as the run decoded it, and masks at the same size."""

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
from orchestrator.reports.draw import to_rgb

SIDE = 400  # pixels of the longer side
QUALITY = 74


@dataclass(frozen=True)
class Thumbnail:
    """An image scaled to `width` x `height`; `url` is a data URL with the whole picture."""

    url: str
    width: int
    height: int


def fit_size(width: int, height: int, side: int = SIDE) -> tuple[int, int]:
    """Return the size on the page, width and height, of an image of this size; `side` is the longer side's limit."""
    scale = min(1.0, side / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink_image(path: Path, exif: bool, side: int = SIDE) -> Image.Image:
    """Scale an image file down to `side`; `exif` applies its orientation.

    OSError or ValueError when it cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))  # a JPEG decoder can skip detail that scaling removes
            upright = ImageOps.exif_transpose(image) if exif else image
            size = fit_size(*upright.size, side)
            return to_rgb(upright).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def make_thumbnail(path: Path, exif: bool) -> Thumbnail:
    """Return an image file as a data URL of at most SIDE pixels; raises what `shrink_image` raises."""
    return encode(shrink_image(path, exif))


def encode(picture: Image.Image) -> Thumbnail:
    """Return a small picture as a data URL."""
    data, kind = compress(picture)
    return Thumbnail(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}", *picture.size)


def compress(picture: Image.Image) -> tuple[bytes, str]:
    """Return a picture's bytes, and their media type."""
    kind = "WEBP" if features.check("webp") else "JPEG"
    data = io.BytesIO()
    picture.save(data, kind, quality=QUALITY)
    return data.getvalue(), f"image/{kind.lower()}"


def shrink_mask(counts: bytes, size: list[int], width: int, height: int) -> list[Any] | None:
    """Return a mask at `width` x `height` pixels as [x, y, w, h, runs], None when no pixel of it remains.

    `runs` are lengths along the columns of that window, outside first. The full mask is never made: the centre of
    each small pixel is looked up in the run lengths.
    """
    runs = rle.check(counts, size)
    left, top, right, bottom = rle.find_box(counts, size)
    if right == left:
        return None
    x1, x2 = left * width // size[1], min(width, -(-right * width // size[1]))
    y1, y2 = top * height // size[0], min(height, -(-bottom * height // size[0]))
    x = ((np.arange(x1, x2) + 0.5) * size[1] / width).astype(np.int64)
    y = ((np.arange(y1, y2) + 0.5) * size[0] / height).astype(np.int64)
    pixels = x[:, None] * size[0] + y
    inside = np.searchsorted(np.cumsum(runs), pixels, side="right") % 2 == 1
    lengths = _measure_runs(inside.reshape(-1))
    return [x1, y1, x2 - x1, y2 - y1, lengths] if len(lengths) > 1 else None


def _measure_runs(inside: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs of equal values; the first is of False and can be 0."""
    padded = np.concatenate(([False], inside))
    changes = np.flatnonzero(padded[1:] != padded[:-1])
    lengths: list[int] = np.diff(np.concatenate(([0], changes, [len(inside)]))).tolist()
    return lengths
