"""Find and dilate connected components of a binary map in numpy, as row runs: areas and sums of runs are cheap."""

from __future__ import annotations

import math
from typing import List, NamedTuple, Tuple

import numpy as np


class Runs(NamedTuple):
    """Horizontal runs of pixels in row-major order: row `row`, columns `start` to before `end`, each (n,) int64."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def take(self, index: np.ndarray) -> "Runs":
        """Return the runs at `index`."""
        return Runs(self.row[index], self.start[index], self.end[index])


class Crop(NamedTuple):
    """A part of a map: `pixels` (h, w) bool with its upper left corner at column `x`, row `y`."""

    x: int
    y: int
    pixels: np.ndarray


def thicken(text: np.ndarray) -> np.ndarray:
    """Dilate `text` (h, w) bool by 2x2 pixels to the right and down, which closes hairline gaps."""
    wide: np.ndarray = text.copy()
    wide[:, 1:] |= text[:, :-1]
    wide[1:] |= wide[:-1].copy()
    return wide


def find_runs(mask: np.ndarray) -> Runs:
    """Return the runs of true pixels of an (H, W) bool map."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    row, start = np.nonzero(steps == 1)
    return Runs(row, start, np.nonzero(steps == -1)[1])


def label_runs(runs: Runs, width: int) -> np.ndarray:
    """Return the component, 0…k-1 by first appearance, of each run of a map `width` wide; diagonals connect."""
    parent = np.arange(len(runs.row))
    above, below = _find_touching(runs, width)
    while True:
        upper, lower = parent[above], parent[below]
        apart = upper != lower
        if not apart.any():
            break
        low, high = np.minimum(upper, lower)[apart], np.maximum(upper, lower)[apart]
        np.minimum.at(parent, high, low)
        parent = _flatten(parent)
    return np.asarray(np.unique(parent, return_inverse=True)[1]).reshape(-1)


def _find_touching(runs: Runs, width: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return index pairs of runs in neighbouring rows that touch, also diagonally."""
    stride = width + 2
    next_row = (runs.row + 1) * stride
    first = np.searchsorted(runs.row * stride + runs.end, next_row + runs.start, "left")
    last = np.searchsorted(runs.row * stride + runs.start, next_row + runs.end, "right")
    counts = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(runs.row)), counts)
    within = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts)
    return above, np.repeat(first, counts) + within


def _flatten(parent: np.ndarray) -> np.ndarray:
    while True:
        grand = parent[parent]
        if np.array_equal(grand, parent):
            return parent
        parent = grand


def split(runs: Runs, labels: np.ndarray) -> List[Runs]:
    """Return the runs of each component, by label."""
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    return [runs.take(part) for part in np.split(order, cuts)] if len(labels) else []


def sum_under(values: np.ndarray, runs: Runs) -> float:
    """Return the sum of a map under the runs; `values` are its prefix sums along rows, (H, W + 1)."""
    return float((values[runs.row, runs.end] - values[runs.row, runs.start]).sum())


def oriented_sides(runs: Runs) -> Tuple[float, float]:
    """Return the sides, longer first, of the rectangle around a component along its principal axis."""
    length = (runs.end - runs.start).astype(np.float64)
    area = length.sum()
    x, y = (runs.start + runs.end) / 2, runs.row + 0.5
    x, y = x - (x * length).sum() / area, y - (y * length).sum() / area
    xx = (length * x * x + length * (length * length - 1) / 12).sum()
    yy, xy = (length * y * y).sum(), (length * x * y).sum()
    angle = 0.5 * math.atan2(2 * xy, xx - yy)
    corner_x = np.concatenate([runs.start, runs.end, runs.start, runs.end])
    corner_y = np.concatenate([runs.row, runs.row, runs.row + 1, runs.row + 1])
    along = corner_x * math.cos(angle) + corner_y * math.sin(angle)
    across = corner_y * math.cos(angle) - corner_x * math.sin(angle)
    sides = float(np.ptp(along)), float(np.ptp(across))
    return max(sides), min(sides)


def grow(runs: Runs, radius: float, height: int, width: int) -> Crop:
    """Dilate a component by a disk of `radius` pixels, inside the height x width map."""
    reach = int(radius)
    x0, x1 = max(int(runs.start.min()) - reach, 0), min(int(runs.end.max()) + reach, width)
    y0, y1 = max(int(runs.row.min()) - reach, 0), min(int(runs.row.max()) + 1 + reach, height)
    # In each row within reach, a run is widened by the disk's half width at that distance.
    offset = np.arange(-reach, reach + 1)
    half = np.floor(np.sqrt(radius * radius - offset * offset)).astype(np.int64)
    row = runs.row[:, None] + offset
    start = np.maximum(runs.start[:, None] - half, x0) - x0
    end = np.minimum(runs.end[:, None] + half, x1) - x0
    inside = (row >= y0) & (row < y1)
    stride = x1 - x0 + 1
    base = (row[inside] - y0) * stride
    size = (y1 - y0) * stride
    opened = np.bincount(base + start[inside], minlength=size) - np.bincount(base + end[inside], minlength=size)
    return Crop(x0, y0, np.cumsum(opened.reshape(-1, stride), axis=1)[:, :-1] > 0)
