"""Read the pixels that are compared: masks of the images' sizes, or those of the network's canvas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.catalog import name_tasks_with_pictures
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.localization.protocol import MaskProtocol
from orchestrator.paths import RunPaths
from orchestrator.predictions import CANVASES, PICTURES, Predictions

RESIZE, PAD = "resize", "pad"
AGAIN = "run the same orch run again"
EXACT = "for exact figures run the model with --set keep_canvas=true"
Levels = NDArray[np.uint8]
Probability = NDArray[np.float32]
Truth = NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True)
class Pixels:
    """How the pixels of a run are read, and in words which they are.

    `read` returns (h,w) levels of 255, or probabilities, of an image given by its file and size (height, width).
    `size_of` returns the size (h, w) that an image of a size has there.
    """

    words: str
    read: Callable[[str, Size], Levels | Probability]
    size_of: Callable[[Size], Size]


def open_pixels(
    run: Path, predictions: Predictions, rules: MaskProtocol, read_picture: Callable[[Path], Levels]
) -> Pixels:
    """Choose how the pixels of a run are read. UsageError for a run without masks."""
    masks, canvases = RunPaths(run).masks, RunPaths(run).canvases
    if not run.is_dir() or not masks.is_dir():
        raise UsageError(
            f"{run} has no folder masks", why=f"only runs of these tasks have one: {name_tasks_with_pictures()}"
        )

    def read_mask(file: str, size: Size) -> Levels:
        levels = read_picture(_find(PICTURES.in_run(run, file), file, "mask"))
        if levels.shape != size:
            ours, image = (f"{shape[1]}x{shape[0]}" for shape in (levels.shape, size))
            raise PredictionsError(f"the mask of {file} is {ours} pixels, the image {image}", hint=AGAIN)
        return levels

    if not rules.is_on_canvas:
        return Pixels("masks of the images' sizes", read_mask, lambda size: size)
    canvas, sizing = _recorded_canvas(predictions)

    def size_there(size: Size) -> Size:
        return size if canvas is None else size_on_canvas(size, canvas, sizing)

    def read_kept(file: str, size: Size) -> Probability:
        return _read_canvas(_find(CANVASES.in_run(run, file), file, "canvas mask"))

    def read_scaled(file: str, size: Size) -> Levels:
        return scale_levels(read_mask(file, size), size_there(size))

    if canvases.is_dir():
        return Pixels("the kept masks of the network's canvas", read_kept, size_there)
    if canvas is None:
        return Pixels(f"masks of the images' sizes, as the run records no canvas; {EXACT}", read_mask, size_there)
    words = f"masks scaled back to the network's canvas, {canvas} pixels, {sizing}; {EXACT}"
    return Pixels(words, read_scaled, size_there)


def _recorded_canvas(predictions: Predictions) -> tuple[int | None, str]:
    """Return the side of the network's canvas, None where not recorded, and how images are brought onto it."""
    native, settings = (predictions.meta.get(name) for name in ("native", "settings"))
    side = native.get("canvas") if isinstance(native, dict) else None
    sizing = settings.get("sizing") if isinstance(settings, dict) else None
    known = isinstance(side, int) and not isinstance(side, bool) and side > 0 and sizing in (RESIZE, PAD)
    return (side if known else None), str(sizing)


def size_on_canvas(size: Size, canvas: int, sizing: str) -> Size:
    """Return the height and width that an image of `size` has on a square canvas, without padding."""
    if sizing == RESIZE:
        return canvas, canvas
    largest = max(size)
    if largest <= canvas:
        return size
    height, width = (max(1, round(side * canvas / largest)) for side in size)
    return height, width


def scale_truth(inside: Truth, size: Size) -> Truth:
    """Return a true mask scaled to `size` (h, w): each pixel is the one that OpenCV's nearest neighbour takes."""
    if inside.shape == size:
        return inside
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64), old - 1)
        for new, old in zip(size, inside.shape, strict=True)
    )
    scaled: Truth = inside[rows[:, None], columns]
    return scaled


def scale_levels(levels: Levels, size: Size) -> Levels:
    """Return levels interpolated (bilinear) at the centres of the pixels of a picture of `size` (h, w)."""
    (height, width), (old_height, old_width) = size, levels.shape
    if (height, width) == (old_height, old_width):
        return levels
    steps = (old_width / width, 0, 0, 0, old_height / height, 0)
    picture = Image.fromarray(levels)
    return np.asarray(
        picture.transform((width, height), Image.Transform.AFFINE, steps, resample=Image.Resampling.BILINEAR)
    )


def _find(path: Path, file: str, what: str) -> Path:
    if not path.is_file():
        raise PredictionsError(f"the {what} of {file} is missing", why=f"no file {path}", hint=AGAIN)
    return path


def _read_canvas(path: Path) -> Probability:
    try:
        values: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PredictionsError(f"cannot read the canvas mask {path}", why=str(error)) from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype != np.float32 or not values.size:
        raise PredictionsError(f"cannot read the canvas mask {path}", why="it is not a two-dimensional float32 array")
    return values
