"""Turn masks into other shapes without loss: outlines along the edges of pixels, runs row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions import rle

Outline = NDArray[np.int64]
"""(k,2) corners x, y of a closed line along the edges of pixels; parts turn clockwise on screen, holes do not."""


def crop_mask(mask: Mapping[str, Any]) -> tuple[NDArray[np.bool_], int, int]:
    """Return the part of a mask within its box (height, width), and the box's left and upper edge.

    `mask` is a dictionary of size and RLE counts. An empty mask gives an array without pixels.
    """
    x1, y1, x2, y2 = rle.find_box(mask["counts"], mask["size"])
    return rle.decode(mask["counts"], mask["size"])[y1:y2, x1:x2], x1, y1


def outline_mask(mask: Mapping[str, Any]) -> list[Outline]:
    """Return the outlines of a mask in its image, as `trace_outlines` does; `mask` as for `crop_mask`."""
    cropped, left, upper = crop_mask(mask)
    return [outline + np.array([left, upper]) for outline in trace_outlines(cropped)]


def trace_outlines(mask: NDArray[np.bool_]) -> list[Outline]:
    """Return the outlines of a mask (height, width): of its parts, and of the holes in them.

    Filling them by the even-odd rule gives the mask again. Pixels that touch only at a corner are different parts.
    """
    x, y, beside, above, is_part = _find_corners(mask)
    outlines: list[Outline] = []
    visited = np.zeros(len(x), bool).tolist()
    for start in range(len(x)):
        if visited[start]:
            continue
        corners, corner = [], start
        while not visited[corner]:
            other = beside[corner]
            visited[corner] = visited[other] = True
            corners += [corner, other]
            corner = above[other]
        outline = np.stack((x[corners], y[corners]), axis=1)
        outlines.append(outline if is_part[start] else outline[::-1])
    return outlines


def _find_corners(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int], list[int], NDArray[np.bool_]]:
    """Return x and y of all corners, row by row, and for each its neighbour along the row and along the column.

    Between two neighbours runs an edge of the outline. Where two pixels touch only diagonally there are two corners.
    Last, whether the pixel to the right and below a corner is in the mask.
    """
    padded = np.pad(mask, 1)
    left_up, right_up, left_down, right_down = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    is_odd = left_up ^ right_up ^ left_down ^ right_down
    is_double = (left_up == right_down) & (right_up == left_down) & (left_up != right_up)
    y, x = np.nonzero(is_odd | is_double)
    doubled = is_double[y, x]
    copies = 1 + doubled
    y, x, rises = np.repeat(y, copies), np.repeat(x, copies), np.repeat(doubled & right_up[y, x], copies)
    index = np.arange(len(x))
    is_second = np.zeros(len(x), bool)
    is_second[np.cumsum(copies)[doubled] - 1] = True
    # The first copy belongs to the pixel on the left; it is the upper one unless the two pixels lie on a rising line.
    order = np.lexsort((is_second ^ rises, y, x))
    above = np.empty_like(index)
    above[order] = order[index ^ 1]
    return x, y, (index ^ 1).tolist(), above.tolist(), right_down[y, x]


def is_hole(outline: Outline) -> bool:
    """Say whether an outline is that of a hole."""
    x, y = outline[:, 0], outline[:, 1]
    return bool((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() < 0)


def join_outlines(outlines: Sequence[Outline]) -> Outline:
    """Return one closed line through all outlines, joined by lines that are passed in both directions.

    Each outline is joined to the nearest corner of those before it. Filling it by the even-odd rule gives what
    filling the outlines gives.
    """
    joined = outlines[0]
    for outline in outlines[1:]:
        from_corner, to_corner = _find_nearest(joined, outline)
        turned = np.roll(outline, -to_corner, axis=0)
        joined = np.concatenate((joined[: from_corner + 1], turned, turned[:1], joined[from_corner:]))
    return joined


def _find_nearest(first: Outline, second: Outline) -> tuple[int, int]:
    """Return the indices of two corners that are near each other: the second one is the nearest to the first."""
    centre = second.mean(axis=0)
    start = int(((first - centre) ** 2).sum(axis=1).argmin())
    stop = int(((second - first[start]) ** 2).sum(axis=1).argmin())
    return start, stop


def count_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of a mask's runs, row by row from the upper left, starting with pixels outside the mask."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return [0, *runs] if flat.size and flat[0] else runs
