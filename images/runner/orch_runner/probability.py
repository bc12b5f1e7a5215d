"""Turn a probability per pixel into an 8-bit PNG and one instance, the region above the threshold."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator

import numpy as np
from PIL import Image as PillowImage

from orch_runner.contract import RunnerJob
from orch_runner.files import open_replacement
from orch_runner.predictor import CropMask, Prediction
from orch_runner.shard_file import output_error

PIXELS = "probability"
"""The value of the job's `pixels` for tasks that give one."""
THRESHOLD_SETTING = "mask_threshold"
DEFAULT_THRESHOLD = 0.5
FOLDER = "masks"
CANVAS_FOLDER = "canvas"
# Pillow's default, 6, takes five times as long for files a tenth smaller.
_COMPRESSION = 1


def check_probability(probability: object, height: int, width: int) -> np.ndarray:
    """Return the probability as (height, width) float32. Raises ValueError for another shape or range."""
    if probability is None:
        raise ValueError("the predictor gave no probability; the model's task needs Prediction(probability=...)")
    values = np.asarray(probability, np.float32)
    if values.shape != (height, width):
        raise ValueError(f"the predictor gave a probability of shape {values.shape} for an image of {(height, width)}")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError("the predictor gave probabilities outside [0, 1]")
    return values


def make_instance(job: RunnerJob, prediction: Prediction, probability: np.ndarray) -> Prediction:
    """Return a Prediction whose only instance is the pixels above the threshold, if there are any.

    The instance's score is the highest probability, its class the first of the stack.
    """
    above = probability > float(job.settings.get(THRESHOLD_SETTING, DEFAULT_THRESHOLD))
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    if not len(rows):
        empty = np.zeros(0, np.float32)
        return Prediction(empty.reshape(0, 4), empty, empty, None, image_score=prediction.image_score)
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    corners = (left, top, right, bottom) if job.native.box_order == "xyxy" else (top, left, bottom, right)
    return Prediction(
        boxes=np.array([corners], np.float32),
        classes=np.array([job.native.class_base]),
        scores=np.array([probability.max()], np.float32),
        masks=[CropMask(left, top, above[top:bottom, left:right])],
        image_score=prediction.image_score,
    )


def picture_path(out: Path, shard: int, index: int) -> Path:
    """Return the path of the picture of image `index`; numbers, because only the host handles names."""
    return out / FOLDER / f"{shard:05d}" / f"{index:08d}.png"


def canvas_path(out: Path, shard: int, index: int) -> Path:
    """Return the path of the canvas mask of image `index`."""
    return out / CANVAS_FOLDER / f"{shard:05d}" / f"{index:08d}.npy"


def write_picture(job: RunnerJob, shard: int, index: int, probability: np.ndarray) -> None:
    """Write the probability as 8-bit grey, round(255 p). Raises Fatal("output") when it cannot be written."""
    grey = np.rint(probability * np.float32(255)).astype(np.uint8)
    with _open_target(job, picture_path(job.out, shard, index)) as stream:
        PillowImage.fromarray(grey).save(stream, "PNG", compress_level=_COMPRESSION)


def write_canvas(job: RunnerJob, shard: int, index: int, canvas: object) -> None:
    """Write a canvas mask as a float32 array. ValueError for a wrong one; Fatal("output") when it cannot be written."""
    values = np.ascontiguousarray(canvas, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"the predictor gave a canvas mask of shape {values.shape}, or one that is not finite")
    with _open_target(job, canvas_path(job.out, shard, index)) as stream:
        np.save(stream, values, allow_pickle=False)


@contextmanager
def _open_target(job: RunnerJob, target: Path) -> Iterator[IO[bytes]]:
    """Yield a stream that replaces the file `target`. Raises Fatal("output") when it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_replacement(target) as stream:
            yield stream
    except OSError as error:
        raise output_error(str(target.relative_to(job.out)), error) from error
