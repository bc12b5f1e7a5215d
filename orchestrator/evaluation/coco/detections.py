"""Predictions laid beside a truth: which image of it each belongs to, and what had to be left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.predictions.annotations import find_images
from orchestrator.predictions.predictions import Predictions

ALL = slice(None)


@dataclass(frozen=True)
class Detections:
    """N instances to be compared with a truth; `image` (N,) counts the truth's images from 0.

    `row` (N,) is the instance's row in `predictions`. `boxes` (N,4) are x, y, width, height in pixels.
    """

    predictions: Predictions
    row: NDArray[np.int64]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)

    def masks(self, places: slice = ALL) -> list[dict[str, Any]]:
        """RLE dictionaries of some instances."""
        data, cuts, sizes = self._masks
        rows = self.row[places]
        pieces = zip(cuts[rows].tolist(), cuts[rows + 1].tolist(), sizes[rows].tolist(), strict=True)
        return [{"size": size, "counts": data[start:stop]} for start, stop, size in pieces]

    @cached_property
    def _masks(self) -> tuple[bytes, NDArray[np.int64], NDArray[np.int32]]:
        """All counts, where each row's begin, and each row's image size."""
        found = self.predictions
        sizes = np.repeat(found.image_size, np.diff(found.offsets), axis=0)
        return found.masks.tobytes(), found.mask_offsets, sizes

    def selected(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """Some of the instances, by a mask or by their places."""
        parts = (self.row, self.image, self.category, self.scores, self.boxes)
        return Detections(self.predictions, *(part[keep] for part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Joined:
    """Detections and the names of what does not meet: annotated images without predictions, and the reverse."""

    detections: Detections
    predicted: NDArray[np.bool_]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def join(predictions: Predictions, truth: Truth) -> Joined:
    """Find the predictions' images in the truth, by whole relative path or else by unique base name.

    Detections of unknown images and of categories the truth lacks are left out. Raises PredictionsError when the
    predictions are broken, no image is known, or an image's size is another one in the truth.
    """
    check_predictions(predictions)
    places = find_images(predictions.files, truth.files)
    known = places >= 0
    if len(places) and not known.any():
        raise PredictionsError(
            f"none of the {len(places)} predicted images is in {truth.path}",
            why=f"the first is {predictions.files[0]!r} here and {next(iter(truth.files), None)!r} there",
            hint="give the annotations of the images that were predicted",
        )
    _check_sizes(predictions, truth, places)
    image = np.repeat(places, np.diff(predictions.offsets))
    category = predictions.classes.astype(np.int64)
    keep = (image >= 0) & np.isin(category, np.array(list(truth.categories), np.int64))
    row = np.flatnonzero(keep)
    corners = predictions.boxes[row].astype(np.float64)
    boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    found = Detections(predictions, row, image[row], category[row], predictions.scores[row].astype(np.float64), boxes)
    predicted = np.zeros(len(truth), bool)
    predicted[places[known]] = True
    missing = tuple(truth.files[place] for place in np.flatnonzero(~predicted))
    unknown = tuple(predictions.files[place] for place in np.flatnonzero(~known))
    return Joined(found, predicted, missing, unknown)


def check_predictions(predictions: Predictions) -> None:
    """PredictionsError when anything but the provenance is not as the format says."""
    problems = predictions.validate(limit=1)
    serious = [problem for problem in problems if problem.array != "meta"]
    if serious:
        raise PredictionsError(
            f"{predictions.path or 'the predictions'} cannot be evaluated",
            why=str(serious[0]),
            hint=f"orch validate {predictions.path or 'FILE'}",
        )


def _check_sizes(predictions: Predictions, truth: Truth, places: NDArray[np.int64]) -> None:
    """Masks of another size would silently match nothing."""
    ours, theirs = predictions.image_size, truth.sizes[places] if len(truth) else np.zeros((len(places), 2), np.int64)
    differs = (ours != theirs).any(axis=1) & theirs.all(axis=1) & (places >= 0) & (predictions.status == 0)
    if not differs.any():
        return
    first = int(np.argmax(differs))
    (height, width), (annotated_height, annotated_width) = ours[first].tolist(), theirs[first].tolist()
    turned = (height, width) == (annotated_width, annotated_height)
    others = int(differs.sum()) - 1
    raise PredictionsError(
        f"{predictions.files[first]} is {width}x{height} pixels, but {annotated_width}x{annotated_height} in "
        f"{truth.path}" + (f", and so are {others} others" if others else ""),
        why="the annotations and the predictions disagree on EXIF rotation" if turned else None,
        hint="orch run --exif apply|ignore, whichever the annotations follow" if turned else None,
    )
