"""Between an image and the map the network makes of it: the size it is shown at, and the way back for masks."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
from components import Crop

MULTIPLE = 32


def network_size(height: int, width: int, limit_side_len: float, max_side_len: float) -> Tuple[int, int]:
    """Height and width an image is resized to: multiples of 32, near its own proportions."""
    scale = max(1.0, limit_side_len / min(height, width))
    scale = min(scale, max_side_len / max(height, width))
    return _multiple(height * scale), _multiple(width * scale)


def _multiple(side: float) -> int:
    return max(MULTIPLE, round(int(side) / MULTIPLE) * MULTIPLE)


def to_image(crop: Crop, map_shape: Tuple[int, ...], image_shape: Tuple[int, int]) -> Optional[Crop]:
    """A mask on the map as one on the image, cut to its pixels; None where it falls between them."""
    rows = _nearest(crop.y, crop.pixels.shape[0], map_shape[0], image_shape[0])
    columns = _nearest(crop.x, crop.pixels.shape[1], map_shape[1], image_shape[1])
    pixels = crop.pixels[rows[1]][:, columns[1]]
    filled_rows, filled_columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(filled_rows):
        return None
    top, left = int(filled_rows[0]), int(filled_columns[0])
    pixels = pixels[top : filled_rows[-1] + 1, left : filled_columns[-1] + 1]
    return Crop(columns[0] + left, rows[0] + top, pixels)


def _nearest(start: int, length: int, map_side: int, image_side: int) -> Tuple[int, np.ndarray]:
    """The first image pixel whose centre lies in [start, start + length) of the map, and the map index of each."""
    at = ((np.arange(image_side) + 0.5) * map_side / image_side).astype(np.int64)
    first, last = np.searchsorted(at, [start, start + length])
    return int(first), at[first:last] - start
