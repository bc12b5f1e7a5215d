"""Outlines of the six garments: random members of each family, as polygons in a unit box.

The box is centred on the origin and y points down. scenes.py chooses sizes and places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Stroke:
    """A line drawn with a round pen; `width` is a share of the garment's size."""

    points: Points
    width: float


@dataclass(frozen=True)
class Shape:
    """One garment. `outline` and `handles` make its mask; panels and seams only change its colour."""

    outline: Points
    aspect: float  # width / height
    handles: tuple[Stroke, ...] = ()
    panels: tuple[Points, ...] = ()
    seams: tuple[Stroke, ...] = ()


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _points(points: Sequence[Point]) -> Points:
    return np.asarray(points, dtype=np.float64)


def _mirrored(left_half: Sequence[Point]) -> list[Point]:
    """A closed outline from its left half, listed from the top of the axis downwards."""
    return [*left_half, *((-x, y) for x, y in reversed(left_half))]


def _rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return _points([(left, top), (right, top), (right, bottom), (left, bottom)])


def _rounded(outline: Sequence[Point], rounds: int = 2) -> Points:
    """Chaikin's corner cutting, kept shallow so that corners stay recognisable."""
    points = _points(outline)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.82 * points + 0.18 * following, 0.18 * points + 0.82 * following], 1).reshape(-1, 2)
    return points


def _arc(centre: Point, radii: Point, start: float, stop: float, steps: int = 24) -> Points:
    """Points of an ellipse between two angles in half turns (0 is right, 0.5 is down, 1 is left)."""
    angle = np.linspace(start * np.pi, stop * np.pi, steps)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], axis=1)


def _tshirt(rng: np.random.Generator) -> Shape:
    body = _between(rng, 0.24, 0.31)
    sleeve = _between(rng, 0.14, 0.36)
    neck = _between(rng, 0.08, 0.13)
    shoulder = _between(rng, 0.21, 0.27)
    depth = _between(rng, 0.04, 0.12)
    cuff_x = -0.5 + _between(rng, 0.08, 0.14)
    cuff_y = -0.43 + sleeve + _between(rng, 0.06, 0.12)
    half = [
        (0.0, -0.5 + depth), (-neck * 0.75, -0.5 + depth * 0.6), (-neck, -0.5), (-shoulder, -0.46),
        (-0.5, -0.43 + sleeve), (cuff_x, cuff_y), (-body, -0.2 + _between(rng, -0.04, 0.06)),
        (-body * _between(rng, 0.92, 1.1), 0.5),
    ]  # fmt: skip
    collar = Stroke(_arc((0.0, -0.5), (neck, depth), 0.0, 1.0), 0.03)
    hem = Stroke(_points([(-body, 0.46), (body, 0.46)]), 0.006)
    cuffs = tuple(
        Stroke(_points([(side * 0.47, -0.45 + sleeve), (side * (abs(cuff_x) - 0.02), cuff_y - 0.05)]), 0.006)
        for side in (-1, 1)
    )
    print_panel = (_rectangle(-0.12, -0.22, 0.12, 0.05),) if rng.random() < 0.3 else ()
    return Shape(_rounded(_mirrored(half)), _between(rng, 0.85, 1.1), panels=print_panel, seams=(collar, hem, *cuffs))


def _trousers(rng: np.random.Generator) -> Shape:
    waist = _between(rng, 0.28, 0.36)
    ankle = _between(rng, 0.32, 0.5)
    gap = _between(rng, 0.03, 0.12)
    crotch = _between(rng, -0.22, -0.08)
    length = 0.5 if rng.random() < 0.75 else _between(rng, 0.08, 0.2)
    outline = [
        (-waist, -0.5), (-waist * 1.15, -0.25), (-ankle, length), (-gap, length), (0.0, crotch),
        (gap, length), (ankle, length), (waist * 1.15, -0.25), (waist, -0.5),
    ]  # fmt: skip
    fly = Stroke(_points([(0.0, -0.42), (0.0, crotch)]), 0.008)
    pockets = tuple(
        Stroke(_points([(side * waist * 0.55, -0.42), (side * waist * 1.05, -0.3)]), 0.008) for side in (-1, 1)
    )
    waistband = Stroke(_points([(-waist * 1.1, -0.43), (waist * 1.1, -0.43)]), 0.008)
    panels = (_rectangle(-0.5, -0.5, 0.5, -0.43),) if rng.random() < 0.4 else ()
    return Shape(_rounded(outline), _between(rng, 0.5, 0.72), panels=panels, seams=(fly, waistband, *pockets))


def _dress(rng: np.random.Generator) -> Shape:
    waist = _between(rng, 0.15, 0.22)
    flare = _between(rng, 0.36, 0.5)
    shoulder = _between(rng, 0.14, 0.2)
    sleeve = _between(rng, 0.0, 0.08)
    depth = _between(rng, 0.06, 0.13)
    waist_y = _between(rng, -0.16, -0.04)
    half = [
        (0.0, -0.5 + depth), (-shoulder * 0.6, -0.5), (-shoulder, -0.49), (-shoulder - sleeve, -0.32),
        (-waist, waist_y), (-flare * 0.78, 0.28), (-flare, 0.47), (-flare * 0.4, 0.5),
    ]  # fmt: skip
    panels = (_rectangle(-0.5, waist_y - 0.035, 0.5, waist_y + 0.02),) if rng.random() < 0.6 else ()
    pleats = tuple(
        Stroke(_points([(share * waist, waist_y + 0.04), (share * flare, 0.48)]), 0.008)
        for share in np.linspace(-0.6, 0.6, int(rng.integers(2, 6)))
    )
    return Shape(_rounded(_mirrored(half)), _between(rng, 0.55, 0.82), panels=panels, seams=pleats)


def _shoe(rng: np.random.Generator) -> Shape:
    boot = rng.random() < 0.3
    top = -0.5 if boot else _between(rng, -0.28, -0.14)
    outline = [
        (-0.47, top), (-0.18, top - _between(rng, 0.0, 0.05)), (-0.11, top + 0.16), (0.1, 0.02), (0.36, 0.1),
        (0.49, 0.24), (0.5, 0.42), (0.3, 0.45), (-0.1, 0.45), (-0.5, 0.45), (-0.5, 0.1),
    ]  # fmt: skip
    lace_ends = (
        [(-0.16 + 0.09 * step, top + 0.14 + 0.09 * step), (-0.02 + 0.09 * step, 0.04 + 0.05 * step)]
        for step in range(3)
    )
    laces = tuple(Stroke(_points(ends), 0.02) for ends in lace_ends)
    sole = (_rectangle(-0.55, 0.33, 0.55, 0.6),) if rng.random() < 0.85 else ()
    aspect = _between(rng, 0.95, 1.2) if boot else _between(rng, 1.35, 1.85)
    return Shape(_rounded(outline), aspect, panels=sole, seams=laces)


def _bag(rng: np.random.Generator) -> Shape:
    top_width = _between(rng, 0.36, 0.47)
    bottom_width = _between(rng, 0.42, 0.5)
    top = _between(rng, -0.2, -0.06)
    radius = _between(rng, 0.18, 0.3)
    outline = [(-top_width, top), (top_width, top), (bottom_width, 0.5), (-bottom_width, 0.5)]
    handle = Stroke(_arc((0.0, top + 0.02), (radius, 0.47 + top), 1.0, 2.0), _between(rng, 0.05, 0.08))
    flap_bottom = top + _between(rng, 0.18, 0.34)
    flap = _points([(-0.5, top - 0.05), (0.5, top - 0.05), (0.42, flap_bottom), (-0.42, flap_bottom)])
    panels = (flap,) if rng.random() < 0.5 else ()
    clasp = Stroke(_points([(0.0, flap_bottom - 0.03), (0.0, flap_bottom + 0.05)]), 0.05)
    return Shape(_rounded(outline), _between(rng, 0.8, 1.2), (handle,), panels, (clasp,) if panels else ())


def _hat(rng: np.random.Generator) -> Shape:
    crown = _between(rng, 0.24, 0.31)
    brim = _between(rng, 0.1, 0.24)
    if rng.random() < 0.55:
        outline = [
            (-crown, brim), (-crown * 0.95, -0.3), (-crown * 0.5, -0.5), (crown * 0.5, -0.5),
            (crown * 0.95, -0.3), (crown, brim), (0.5, brim + 0.08), (0.48, brim + 0.2), (0.0, brim + 0.26),
            (-0.48, brim + 0.2), (-0.5, brim + 0.08),
        ]  # fmt: skip
        band = (_rectangle(-crown * 1.2, brim - 0.14, crown * 1.2, brim + 0.02),) if rng.random() < 0.8 else ()
        return Shape(_rounded(outline), _between(rng, 1.35, 1.9), panels=band)
    outline = [
        (-crown, brim), (-crown, -0.15), (-crown * 0.6, -0.45), (crown * 0.6, -0.45), (crown, -0.15),
        (crown, brim - 0.02), (0.5, brim + 0.1), (0.5, brim + 0.18), (0.1, brim + 0.1), (-crown, brim + 0.1),
    ]  # fmt: skip
    peak = _points(
        [(crown * 0.3, brim), (crown, brim - 0.02), (0.55, brim + 0.08), (0.55, brim + 0.3), (0.1, brim + 0.3)]
    )
    seam = Stroke(_arc((0.0, brim), (crown * 0.45, 0.45 + brim), 1.0, 2.0), 0.008)
    return Shape(_rounded(outline), _between(rng, 1.3, 1.65), panels=(peak,), seams=(seam,))


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "t-shirt": _tshirt,
    "trousers": _trousers,
    "dress": _dress,
    "shoe": _shoe,
    "bag": _bag,
    "hat": _hat,
}
