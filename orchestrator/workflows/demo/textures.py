"""Cloth, surfaces and shade for the drawn scenes, as float32 arrays.

Nothing here draws a random number per pixel, so one seed gives much the same scene at any size.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Floats:
    """A (height, width) field of about [0, 1] that varies over `cells` cells from edge to edge."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def blurred(mask: Image.Image, radius: float) -> Floats:
    """An "L" image blurred, as (H, W) in [0, 1]."""
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / np.float32(255)


def colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    """A random RGB colour in 0..255, its saturation and value within the ranges."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.asarray(rgb, dtype=np.float32) * np.float32(255)


def cloth(rng: np.random.Generator, width: int, height: int, unit: float) -> Floats:
    """(height, width, 3) cloth; `unit` is the scene's side in pixels, which sets how fine patterns are."""
    base = colour(rng, (0.05, 0.85), (0.15, 0.98))
    other = colour(rng, (0.0, 0.8), (0.1, 1.0))
    pattern = _pattern(rng, width, height, unit)[..., None]
    shade = 0.82 + 0.36 * smooth_noise(rng, width, height, 4)[..., None]
    return np.asarray((base + (other - base) * pattern) * shade, dtype=np.float32)


def _pattern(rng: np.random.Generator, width: int, height: int, unit: float) -> Floats:
    """How much of the second colour shows, (height, width) in [0, 1]."""
    kind = int(rng.integers(0, 8))
    period = unit * float(rng.uniform(0.02, 0.07))
    angle = float(rng.uniform(0, np.pi))
    threshold = float(rng.uniform(-0.6, 0.6))
    cells = int(rng.integers(4, 12))
    down, across = np.mgrid[:height, :width].astype(np.float32)
    along = across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
    turn = np.float32(2 * np.pi / period)
    if kind <= 2:
        field = np.zeros((height, width), dtype=np.float32)
    elif kind == 3:
        field = (np.sin(along * turn) > threshold).astype(np.float32)
    elif kind == 4:
        field = 0.5 * (np.sin(across * turn) > 0.2) + 0.5 * (np.sin(down * turn) > 0.2)
    elif kind == 5:
        half = period / 2
        radius = period * (0.25 + 0.12 * threshold)
        field = (((across % period) - half) ** 2 + ((down % period) - half) ** 2 < radius**2).astype(np.float32)
    elif kind == 6:
        field = np.clip(smooth_noise(rng, width, height, cells) * 2.4 - 0.7, 0, 1)
    else:
        field = np.clip(along / max(width, height) * 0.7 + 0.2, 0, 1)
    return np.asarray(field, dtype=np.float32)


def folds(rng: np.random.Generator, width: int, height: int) -> Floats:
    """Soft creases: how much light each pixel loses, (height, width) in [0, 1]."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    size = max(width, height)
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0.25, 0.75) * width, rng.uniform(0.15, 0.85) * height
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.25) * size
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        draw.line([(x, y), end], fill=int(rng.integers(90, 220)), width=max(1, round(size / 60)))
    return blurred(image, max(0.5, size / 70))


def surface(rng: np.random.Generator, side: int, photographs: Sequence[NDArray[np.uint8]] = ()) -> Floats:
    """What garments lie on, (side, side, 3): part of a photograph, planks, tiles, weave or plaster."""
    if photographs and rng.random() < 0.4:
        return _photograph(rng, side, photographs[int(rng.integers(len(photographs)))])
    base = colour(rng, (0.02, 0.45), (0.25, 0.95))
    kind = int(rng.integers(0, 5))
    if kind == 0:
        relief = _planks(rng, side)
    elif kind == 1:
        relief = _tiles(rng, side)
    elif kind == 2:
        relief = _weave(rng, side)
    else:
        relief = np.ones((side, side), dtype=np.float32)
    broad = float(rng.uniform(0.05, 0.5)) * (smooth_noise(rng, side, side, int(rng.integers(2, 6))) - 0.5)
    fine = float(rng.uniform(0.0, 0.25)) * (smooth_noise(rng, side, side, int(rng.integers(12, 48))) - 0.5)
    tint = 1 + rng.uniform(-0.12, 0.12, 3).astype(np.float32) * broad[..., None] * 4
    return np.asarray(base * (relief + broad + fine)[..., None] * tint, dtype=np.float32)


def _photograph(rng: np.random.Generator, side: int, photograph: NDArray[np.uint8]) -> Floats:
    height, width = photograph.shape[:2]
    shorter = min(height, width)
    crop = int(shorter * rng.uniform(0.35, 1.0))
    left, top = int(rng.random() * (width - crop)), int(rng.random() * (height - crop))
    image = Image.fromarray(photograph).resize(
        (side, side), Image.Resampling.BILINEAR, box=(left, top, left + crop, top + crop)
    )
    tint = rng.uniform(0.75, 1.2, 3).astype(np.float32)
    return np.asarray(np.asarray(image, dtype=np.float32) * tint, dtype=np.float32)


def _planks(rng: np.random.Generator, side: int) -> Floats:
    """Boards of unequal tone with grain along them."""
    count = int(rng.integers(4, 9))
    tones = rng.uniform(0.8, 1.1, count).astype(np.float32)
    row = np.arange(side) * count / side
    across = tones[row.astype(int)] * np.where(row % 1 < 0.04, np.float32(0.55), np.float32(1))
    grain = Image.fromarray(rng.random((count * 12, 4), dtype=np.float32))
    relief = across[:, None] + 0.18 * (np.asarray(grain.resize((side, side), Image.Resampling.BICUBIC)) - 0.5)
    return np.asarray(relief if rng.random() < 0.5 else relief.T, dtype=np.float32)


def _tiles(rng: np.random.Generator, side: int) -> Floats:
    """Square tiles with darker or lighter joints."""
    count = int(rng.integers(3, 8))
    tones = rng.uniform(0.9, 1.08, (count, count)).astype(np.float32)
    position = np.arange(side) * count / side
    cell = position.astype(int)
    joint = np.minimum(position % 1, 1 - position % 1) < 0.025
    relief = tones[cell[:, None], cell[None, :]]
    return np.where(joint[:, None] | joint[None, :], np.float32(rng.uniform(0.6, 1.2)), relief)


def _weave(rng: np.random.Generator, side: int) -> Floats:
    """A fine two-way ripple, like a tablecloth."""
    phase = np.arange(side, dtype=np.float32) * np.float32(2 * np.pi * rng.uniform(24, 60) / side)
    ripple = np.sin(phase) * np.float32(rng.uniform(0.02, 0.09))
    return np.asarray(1 + ripple[:, None] + ripple[None, :], dtype=np.float32)
