"""Training pictures: scenes drawn once into arrays, then turned into augmented batches with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from orchestrator.workflows.demo.scenes import CATEGORIES, Scene, draw_scene
from training.garments.network import CLASSES, INPUT_SIZE, MASK_STRIDE, PEAK_STRIDE, PIXEL_MEAN, PIXEL_SCALE

# CC0 or public domain, each by its own docstring in skimage.data (README.md lists them).
PHOTOGRAPHS = ("brick.png", "grass.png", "gravel.png", "coffee.png", "chelsea.png", "rocket.jpg")
GRID = INPUT_SIZE // PEAK_STRIDE


@dataclass(frozen=True)
class Batch:
    """`peaks` (N, 3: image, x, y) are where the filters of the N masks are read, in heat map cells."""

    pixels: Tensor
    heat: Tensor
    peaks: Tensor
    masks: Tensor


def photographs() -> list[NDArray[np.uint8]]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]


def draw_all(seeds: Sequence[int], processes: int) -> list[Scene]:
    draw = partial(draw_scene, size=INPUT_SIZE, backgrounds=photographs())
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(draw, seeds, chunksize=64))


def make_batch(scenes: Sequence[Scene], size: int, rng: np.random.Generator) -> Batch:
    pixels = np.empty((size, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    heat = np.zeros((size, CLASSES, GRID, GRID), np.float32)
    peaks: list[tuple[int, int, int]] = []
    masks: list[NDArray[np.float32]] = []
    for image, index in enumerate(rng.integers(0, len(scenes), size)):
        scene = scenes[index]
        flip = rng.random() < 0.5
        pixels[image] = _augmented(scene.pixels[:, ::-1] if flip else scene.pixels, rng)
        for instance in scene.instances:
            mask = instance.mask[:, ::-1] if flip else instance.mask
            x, y, sigma = _centre(mask)
            _raise_peak(heat[image, CATEGORIES.index(instance.category)], x, y, sigma)
            peaks.append((image, *_jittered(x, y, rng)))
            cells = mask.reshape(INPUT_SIZE // MASK_STRIDE, MASK_STRIDE, INPUT_SIZE // MASK_STRIDE, MASK_STRIDE)
            masks.append(cells.mean((1, 3), dtype=np.float32))
    scaled = torch.from_numpy(((pixels - PIXEL_MEAN) / PIXEL_SCALE).transpose(0, 3, 1, 2))
    return Batch(
        scaled.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(heat),
        torch.tensor(peaks),
        torch.from_numpy(np.stack(masks)),
    )


def _augmented(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Colours shuffled, contrast and brightness changed, sometimes blurred as a resized photograph is."""
    image = pixels.astype(np.float32)
    if rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    image = (image - 127) * rng.uniform(0.7, 1.3) + 127 + rng.uniform(-25, 25)
    if rng.random() < 0.4:
        for axis in (0, 1):
            image = 0.5 * image + 0.25 * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    return np.clip(image, 0, 255).astype(np.float32)


def _centre(mask: NDArray[np.bool_]) -> tuple[int, int, float]:
    """The cell at the centre of a mask's box, and how far its peak spreads, in heat map cells."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    x, y = (left + right) // (2 * PEAK_STRIDE), (top + bottom) // (2 * PEAK_STRIDE)
    sigma = max(0.8, 0.12 * float(np.sqrt((right - left) * (bottom - top))) / PEAK_STRIDE)
    return min(x, GRID - 1), min(y, GRID - 1), sigma


def _raise_peak(heat: NDArray[np.float32], x: int, y: int, sigma: float) -> None:
    grid = np.arange(GRID)
    distance = (grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2
    np.maximum(heat, np.exp(-distance / (2 * sigma**2)), out=heat)


def _jittered(x: int, y: int, rng: np.random.Generator) -> tuple[int, int]:
    """Half the time a neighbouring cell: at inference the highest cell is not always the exact one."""
    if rng.random() < 0.5:
        return x, y
    dx, dy = rng.integers(-1, 2, 2)
    return int(np.clip(x + dx, 0, GRID - 1)), int(np.clip(y + dy, 0, GRID - 1))
