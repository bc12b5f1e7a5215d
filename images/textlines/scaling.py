"""Compute the size of the network's input, and scale masks from the network's map to the image."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
from components import Crop

MULTIPLE = 32


def network_size(height: int, width: int, limit_side_len: float, max_side_len: float) -> Tuple[int, int]:
    """Return the height and width to resize an image to: multiples of 32, close to its aspect ratio."""
    scale = max(1.0, limit_side_len / min(height, width))
    scale = min(scale, max_side_len / max(height, width))
    return _round_to_multiple(height * scale), _round_to_multiple(width * scale)


def _round_to_multiple(side: float) -> int:
    return max(MULTIPLE, round(int(side) / MULTIPLE) * MULTIPLE)


def to_image(crop: Crop, map_shape: Tuple[int, ...], image_shape: Tuple[int, int]) -> Optional[Crop]:
    """Scale a mask on the map to the image, cropped to its true pixels; None if it covers no pixel centre."""
    rows = _find_pixels(crop.y, crop.pixels.shape[0], map_shape[0], image_shape[0])
    columns = _find_pixels(crop.x, crop.pixels.shape[1], map_shape[1], image_shape[1])
    pixels = crop.pixels[rows[1]][:, columns[1]]
    filled_rows, filled_columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(filled_rows):
        return None
    top, left = int(filled_rows[0]), int(filled_columns[0])
    pixels = pixels[top : filled_rows[-1] + 1, left : filled_columns[-1] + 1]
    return Crop(columns[0] + left, rows[0] + top, pixels)


def _find_pixels(start: int, length: int, map_side: int, image_side: int) -> Tuple[int, np.ndarray]:
    """Return the first image pixel with its centre in [start, start + length) of the map, and each one's map index."""
    cells = ((np.arange(image_side) + 0.5) * map_side / image_side).astype(np.int64)
    first, last = np.searchsorted(cells, [start, start + length])
    return int(first), cells[first:last] - start
