"""Join predictions with a truth: find each image in the truth, and list those without a match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.evaluation.coco.categories import adopt_ids, find_unpredictable
from orchestrator.evaluation.coco.federated import MAX_PER_IMAGE
from orchestrator.evaluation.coco.ground_truth import Iou, Truth
from orchestrator.predictions import Predictions, find_images, to_xywh

ALL = slice(None)
SHOWN = 5


@dataclass(frozen=True)
class Detections:
    """N instances to compare with a truth; `image` (N,) is the index of the truth's image.

    `row` (N,) is the instance's row in `predictions`. `boxes` (N,4) are x, y, width, height in pixels. `has_box_areas`:
    areas are those of the boxes, also where masks are compared.
    """

    predictions: Predictions
    row: NDArray[np.int64]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    has_box_areas: bool = False

    def __len__(self) -> int:
        return len(self.row)

    def masks(self, indices: slice | NDArray[np.int64] = ALL) -> list[dict[str, Any]]:
        """Return the RLE dictionaries of some instances. Those of one image share the list of its size."""
        rows, offsets = self.row[indices], self.predictions.mask_offsets
        data, sizes, image_of_row = self._masks
        pieces = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), image_of_row[rows].tolist(), strict=True)
        return [{"size": sizes[image], "counts": data[start:stop].tobytes()} for start, stop, image in pieces]

    @cached_property
    def _masks(self) -> tuple[memoryview, list[list[int]], NDArray[np.int32]]:
        """All counts, the size of each image of the predictions, and each row's image there."""
        predictions = self.predictions
        image_of_row = np.repeat(np.arange(len(predictions), dtype=np.int32), np.diff(predictions.offsets))
        return memoryview(predictions.masks), predictions.image_size.tolist(), image_of_row  # type: ignore[arg-type]

    def select(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """Return some of the instances, by a mask or by their indices."""
        names = ("row", "image", "category", "scores", "boxes")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})


@dataclass(frozen=True)
class JoinedDetections:
    """Detections, the annotated files that were not predicted, and the predicted ones not annotated.

    `predicted` (I,) says of the truth's images which have predictions. `warnings` say what is doubtful. `unpredictable`
    are the truth's categories that the model cannot predict, by id.
    """

    detections: Detections
    predicted: NDArray[np.bool_]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unpredictable: Mapping[int, str] = field(default_factory=dict)

    def note_unpredictable(self, truth: Truth) -> list[str]:
        """Return a note on the annotations that count as missed because the model does not have their category."""
        ids, counts = np.unique(truth.category[~truth.crowd], return_counts=True)
        missed = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        names = [f"{name} ({missed[number]})" for number, name in self.unpredictable.items() if number in missed]
        if not names:
            return []
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        model = self.detections.predictions.meta.get("model", "the model")
        return [
            f"{model} cannot predict {', '.join(names[:SHOWN])}{more}: all annotations of these categories count as "
            "missed; orch compare --align compares what all models can predict, --categories only those you name"
        ]


def join(predictions: Predictions, truth: Truth) -> JoinedDetections:
    """Find the predictions' images in the truth, by whole relative path or else by unique base name.

    Detections of unknown images and of categories that the truth lacks are dropped, and those that do not count by
    LVIS's rules where they apply. Categories are paired by `categories.adopt_ids`: the detections' predictions have the
    truth's ids. PredictionsError when the predictions are broken, no image or no category is known, or an image has
    another size in the truth.
    """
    check_predictions(predictions, with_masks=truth.masks is not None)
    indices = find_images(predictions.files, truth.files)
    is_known = indices >= 0
    if len(indices) and not is_known.any():
        raise PredictionsError(
            f"none of the {len(indices)} predicted images is in {truth.path}",
            why=f"the first is {predictions.files[0]!r} here and {next(iter(truth.files), None)!r} there",
            hint="give the annotations of the images that were predicted",
        )
    _check_sizes(predictions, truth, indices)
    unpredictable = find_unpredictable(predictions, truth.categories, truth.unchosen_categories)
    predictions, warnings = adopt_ids(predictions, {**truth.unchosen_categories, **truth.categories}, str(truth.path))
    image = np.repeat(indices, np.diff(predictions.offsets))
    category = predictions.classes.astype(np.int64)
    row = np.flatnonzero((image >= 0) & np.isin(category, np.array(list(truth.categories), np.int64)))
    if truth.federation is not None:
        rank = np.arange(len(image)) - np.repeat(predictions.offsets[:-1], np.diff(predictions.offsets))
        row = row[(rank[row] < MAX_PER_IMAGE) & truth.are_searched(image[row], category[row])]
    scores, boxes = predictions.scores[row].astype(np.float64), to_xywh(predictions.boxes[row])
    predicted = np.zeros(len(truth), bool)
    predicted[indices[is_known]] = True
    return JoinedDetections(
        detections=Detections(predictions, row, image[row], category[row], scores, boxes),
        predicted=predicted,
        missing=tuple(truth.files[index] for index in np.flatnonzero(~predicted)),
        unknown=tuple(predictions.files[index] for index in np.flatnonzero(~is_known)),
        warnings=tuple(warnings),
        unpredictable=unpredictable,
    )


def check_predictions(predictions: Predictions, with_masks: bool) -> None:
    """Raise PredictionsError when anything but `meta` breaks the format; masks count only where they are compared."""
    if with_masks and predictions.has_masks:
        _ = predictions.masks  # in memory before they are checked, so that they are read once
    problems = [one for one in predictions.validate(limit=1, with_masks=with_masks) if one.array != "meta"]
    if problems:
        raise PredictionsError(
            f"{predictions.path or 'the predictions'} cannot be evaluated",
            why=str(problems[0]),
            hint=f"orch validate {predictions.path or 'FILE'}",
        )


def _check_sizes(predictions: Predictions, truth: Truth, indices: NDArray[np.int64]) -> None:
    """Refuse images of two sizes: their masks would match nothing, without any message."""
    ours, theirs = predictions.image_size, truth.sizes[indices] if len(truth) else np.zeros((len(indices), 2), np.int64)
    differs = (ours != theirs).any(axis=1) & theirs.all(axis=1) & (indices >= 0) & (predictions.status == 0)
    if not differs.any():
        return
    first = int(np.argmax(differs))
    (height, width), (annotated_height, annotated_width) = ours[first].tolist(), theirs[first].tolist()
    is_rotated = (height, width) == (annotated_width, annotated_height)
    others = int(differs.sum()) - 1
    raise PredictionsError(
        f"{predictions.files[first]} is {width}x{height} pixels, but {annotated_width}x{annotated_height} in "
        f"{truth.path}" + (f"; {others} other images differ too" if others else ""),
        why="the annotations and the predictions disagree on EXIF rotation" if is_rotated else None,
        hint="orch run --exif apply|ignore, whichever the annotations follow" if is_rotated else None,
    )


def choose_iou(predictions: Sequence[Predictions], iou: Iou | None) -> Iou:
    """Return what overlaps are measured by: `iou`, or by default masks where all runs have them, else boxes.

    PredictionsError when masks are asked for and a run has none.
    """
    if iou is None:
        return "bbox" if any(one.is_boxes_only for one in predictions) else "segm"
    if iou == "segm":
        for one in predictions:
            one.require_masks()
    return iou
