"""What in a COCO annotation file cannot be meant: skipped and named, warned of, or refused, always with numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions import STATUS_PREDICTED, Predictions, find_images, rle

SKIPPABLE = 0.01  # share of the annotations, or images, that may be faulty; more is another format rather than a slip
SHOWN = 5  # named in a warning
SLACK_PIXELS, SLACK_SHARE = 2.0, 0.01  # beyond an image, in pixels or of its side: tools round, and do not always clip
SAMPLE = 2000  # of more masks, so many are looked at, evenly spread; all of them if one is found wrong
CORNERS_AT_LEAST = 3  # boxes that leave their image and fit as corners; one or two are more likely slips
BOXES_HINT = "add --iou bbox to compare boxes"
PIXELS_HINT = "coordinates are pixels of the image that `images` describes, from its upper left corner"


@dataclass
class TruthLog:
    """What is found in the file `path`, of the images `files`, when it is read to compare masks or boxes (`iou`)."""

    path: Path
    iou: str
    files: Sequence[str]
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> str:
        return "masks" if self.iou == "segm" else "boxes"

    def skip(
        self, annotations: list[dict[str, Any]], faults: Mapping[int, str], hint: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the annotations without faulty ones, by index, and name these. UsageError for more than SKIPPABLE."""
        if not faults:
            return annotations
        names = {n: _name(annotations[n], n) for n in sorted(faults)}
        first = next(iter(names))
        if len(faults) > SKIPPABLE * len(annotations):
            more = f"; {len(faults)} of {len(annotations)} annotations cannot be used" if len(faults) > 1 else ""
            raise UsageError(f"{names[first]} of {self.path} cannot be used", why=faults[first] + more, hint=hint)
        listed = [f"{name}: {faults[n]}" for n, name in names.items()]
        self.skipped += listed
        self.warnings.append(
            f"{len(faults)} of {len(annotations)} annotations of {self.path} are skipped: {shorten(listed)}; "
            "correct or delete them (--strict refuses them)"
        )
        return [annotation for n, annotation in enumerate(annotations) if n not in faults]

    def find_repeated_files(self) -> NDArray[np.bool_]:
        """Return (I,) which images share their file name with another. UsageError for more than SKIPPABLE of them."""
        counts = Counter(self.files)
        repeated = [name for name, count in counts.items() if count > 1]
        is_repeated = np.array([counts[name] > 1 for name in self.files], bool)
        if not repeated:
            return is_repeated
        count = int(is_repeated.sum())
        why = f"{count} of {len(self.files)} images have the file name of another: {shorten(list(map(repr, repeated)))}"
        hint = "give each image its path relative to one folder as file_name"
        if count > SKIPPABLE * len(self.files):
            raise UsageError(f"the images of {self.path} cannot be told apart", why=why, hint=hint)
        self.skipped += [f"image {name!r}: {counts[name]} images have this file name" for name in repeated]
        self.warnings.append(f"{why}; they are skipped with their annotations: {hint}")
        return is_repeated


@dataclass(frozen=True)
class Columns:
    """The N annotations that are read, and columns of them as in `ground_truth.Truth`; `sizes` (I,2) of the images."""

    annotations: list[dict[str, Any]]
    image: NDArray[np.int64]
    sizes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]


def complete_sizes(
    stated: NDArray[np.int64],
    predicted: Sequence[Predictions],
    image: NDArray[np.int64],
    annotations: list[dict[str, Any]],
    log: TruthLog,
) -> NDArray[np.int64]:
    """Return (I,2) sizes: those stated, or of predictions where they are missing, or where they are turned for certain.

    Turned for certain: the predicted size is the stated one turned, annotations leave the stated size and fit into the
    predicted one, and in no such image it is the other way round. `image` (N,) are the annotations' images.
    """
    known = _find_predicted_sizes(predicted, log.files)
    sizes = np.where((stated == 0).any(axis=1, keepdims=True), known, stated)
    is_turned = known.all(axis=1) & (known == sizes[:, ::-1]).all(axis=1) & (known != sizes).any(axis=1)
    concerned = np.flatnonzero(is_turned[image])
    if not len(concerned):
        return sizes
    extents, own = find_extents(log.iou, [annotations[n] for n in concerned]), image[concerned]
    leaves_stated = np.zeros(len(sizes), bool)
    leaves_known = np.zeros(len(sizes), bool)
    leaves_stated[own[_leave(extents, sizes[own])]] = True
    leaves_known[own[_leave(extents, known[own])]] = True
    proof = leaves_stated & ~leaves_known
    if not proof.any() or (leaves_known & ~leaves_stated).any():
        return sizes
    first = int(np.argmax(proof))
    log.warnings.append(
        f"{log.path} states the sizes of {int(is_turned.sum())} images turned, as before EXIF rotation; they are read "
        f"as predicted. Annotations prove it in {int(proof.sum())}, the first: {log.files[first]} is stated as "
        f"{_pixels(sizes[first])}, predicted as {_pixels(known[first])}, and its annotations fit the latter alone"
    )
    sizes[is_turned] = known[is_turned]
    return sizes


def _find_predicted_sizes(predicted: Sequence[Predictions], files: Sequence[str]) -> NDArray[np.int64]:
    """Return (I,2) the sizes of images that were predicted, zeros for others."""
    sizes = np.zeros((len(files), 2), np.int64)
    for predictions in predicted:
        indices = find_images(predictions.files, files) if len(files) else np.full(len(predictions), -1)
        has_size = (indices >= 0) & (predictions.status == STATUS_PREDICTED)
        sizes[indices[has_size]] = predictions.image_size[has_size]
    return sizes


def find_extents(iou: str, annotations: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return (N,4) the corners x1, y1, x2, y2 of boxes, or of polygons; those of run lengths are their whole size.

    nan where a segmentation is malformed.
    """
    if iou == "bbox":
        return _corners(np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4))
    return np.array([_find_extent(annotation.get("segmentation")) for annotation in annotations]).reshape(-1, 4)


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def _find_extent(segmentation: Any) -> list[float]:
    try:
        if isinstance(segmentation, dict):
            height, width = segmentation["size"]
            return [0.0, 0.0, float(width), float(height)]
        polygons = [np.array(points, np.float64).reshape(-1, 2) for points in segmentation]
        points = np.concatenate(polygons)
        return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    except (TypeError, ValueError, KeyError, OverflowError):
        return [np.nan] * 4


def check_coordinates(columns: Columns, masks: list[dict[str, Any]] | None, log: TruthLog) -> dict[int, str]:
    """Warn of annotations that cannot be meant; return faults, by index, of those that lie outside their images.

    UsageError when coordinates are fractions or boxes corners, PredictionsError when most images are annotated turned.
    """
    if not columns.annotations:
        return {}
    _warn_of_crowds(columns, log)
    _warn_of_empty(columns, masks, log)
    if log.iou == "bbox":
        chosen, extents = np.arange(len(columns.boxes)), _corners(columns.boxes)
    else:
        chosen = _choose_masks(columns)
        extents = find_extents(log.iou, [columns.annotations[n] for n in chosen])
    image = columns.image[chosen]
    sizes = columns.sizes[image]
    _refuse_fractions(extents, sizes, log)
    leaves = _leave(extents, sizes)
    if not leaves.any():
        return {}
    if log.iou == "bbox":
        _refuse_corners(columns, leaves, log)
    leaves &= ~np.isin(image, _find_turned(columns, extents, image, leaves, log))
    low, high = extents[:, :2], extents[:, 2:]
    is_outside = leaves & ((low >= sizes[:, ::-1]) | (high <= 0)).any(axis=1) & (high > low).all(axis=1)
    _warn_of_leaving(columns, chosen, extents, sizes, leaves & ~is_outside, log)
    faults = {}
    for n in np.flatnonzero(is_outside).tolist():
        reach = f"it reaches from {_point(low[n])} to {_point(high[n])}"
        faults[int(chosen[n])] = f"{reach}, outside {_describe(columns, n, image, log)}"
    return faults


def _choose_masks(columns: Columns) -> NDArray[np.int64]:
    """Return the indices of the masks to look at: of many a sample, and all whose boxes leave their images."""
    count = len(columns.annotations)
    everything = np.arange(count)
    if count <= SAMPLE:
        return everything
    suspect = _leave(_corners(columns.boxes), columns.sizes[columns.image])
    spread = np.linspace(0, count - 1, SAMPLE).astype(np.int64)
    extents = find_extents("segm", [columns.annotations[n] for n in spread])
    if (_leave(extents, columns.sizes[columns.image[spread]]) & ~suspect[spread]).any():
        return everything
    return np.union1d(spread, np.flatnonzero(suspect))


def _leave(extents: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (N,) which extents reach beyond images of `sizes` (N,2) by more than the slack; False without size."""
    slack = np.maximum(SLACK_PIXELS, SLACK_SHARE * sizes.max(axis=1, initial=0))
    result: NDArray[np.bool_] = (_measure_beyond(extents, sizes) > slack) & sizes.all(axis=1)
    return result


def _measure_beyond(extents: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (N,) by how many pixels extents reach beyond their images."""
    beyond = np.concatenate((-extents[:, :2], extents[:, 2:] - sizes[:, ::-1]), axis=1)
    farthest: NDArray[np.float64] = np.where(np.isnan(beyond), 0.0, beyond).max(axis=1, initial=0.0)
    return farthest


def _refuse_fractions(extents: NDArray[np.float64], sizes: NDArray[np.int64], log: TruthLog) -> None:
    known = extents[~np.isnan(extents).any(axis=1)]
    if not len(known) or known.min() < 0 or known.max() > 1.001 or (known == np.rint(known)).all():
        return
    if sizes.max() <= SLACK_PIXELS:
        return
    raise UsageError(
        f"the {log.shapes} of {log.path} are not in pixels",
        why=f"all coordinates lie between 0 and {known.max():g}, in images of up to {sizes.max()} pixels a side: they "
        "are fractions of the image",
        hint="multiply x and widths by the image's width, y and heights by its height",
    )


def _refuse_corners(columns: Columns, leaves: NDArray[np.bool_], log: TruthLog) -> None:
    """Refuse boxes of x1, y1, x2, y2: read as x, y, width, height many leave their images, as corners none does."""
    boxes, count = columns.boxes, int(leaves.sum())
    are_corners = (boxes[:, 2:] >= boxes[:, :2]).all() and not _leave(boxes, columns.sizes[columns.image]).any()
    if are_corners and count >= max(CORNERS_AT_LEAST, len(boxes) / 10):
        raise UsageError(
            f"the boxes of {log.path} are corners",
            why=f"{count} of {len(boxes)} leave their images as x, y, width, height, which is COCO's order; as x1, y1, "
            "x2, y2 all fit",
            hint="write each bbox as [x1, y1, x2 - x1, y2 - y1]",
        )


def _find_turned(
    columns: Columns, extents: NDArray[np.float64], image: NDArray[np.int64], leaves: NDArray[np.bool_], log: TruthLog
) -> NDArray[np.int64]:
    """Return the images whose annotations leave them and would fit if they were turned.

    A warning says so, or, where these are half of all annotated images, a PredictionsError.
    """
    leaves_turned = image[_leave(extents, columns.sizes[image][:, ::-1])]
    turned = np.setdiff1d(image[leaves], leaves_turned)
    if not len(turned):
        return turned
    first = int(turned[0])
    annotated = len(np.unique(columns.image))
    message = (
        f"the annotations of {len(turned)} of {annotated} images leave the size that {log.path} states, and fit into "
        "it turned"
    )
    why = f"the first is {log.files[first]}, {_pixels(columns.sizes[first])}, which seems its size before EXIF rotation"
    hint = f"exchange width and height of these images in {log.path}; predict with orch run --exif apply"
    if 2 * len(turned) >= annotated:
        raise PredictionsError(message, why=why, hint=hint)
    log.warnings.append(f"{message}; {why}; {hint}")
    return turned


def _warn_of_leaving(
    columns: Columns,
    chosen: NDArray[np.int64],
    extents: NDArray[np.float64],
    sizes: NDArray[np.int64],
    leaves: NDArray[np.bool_],
    log: TruthLog,
) -> None:
    if not leaves.any():
        return
    beyond = np.where(leaves, _measure_beyond(extents, sizes), 0.0)
    farthest = int(np.argmax(beyond))
    number = int(chosen[farthest])
    log.warnings.append(
        f"{int(leaves.sum())} of {len(columns.annotations)} annotations reach beyond their images, the farthest by "
        f"{beyond[farthest]:g} pixels: {_name(columns.annotations[number], number)} in "
        f"{_describe(columns, farthest, columns.image[chosen], log)}; {PIXELS_HINT}"
    )


def _warn_of_crowds(columns: Columns, log: TruthLog) -> None:
    if columns.crowd.all():
        log.warnings.append(
            f"all {len(columns.crowd)} annotations of {log.path} are crowd regions (iscrowd 1): there is nothing to "
            "find, so the figures stay empty; set iscrowd to 0 where an annotation is one object (tools export brush "
            "masks with 1)"
        )


def _warn_of_empty(columns: Columns, masks: list[dict[str, Any]] | None, log: TruthLog) -> None:
    """Warn of annotations without a pixel, which nothing can match, and of a file whose areas are all 0."""
    is_empty = _find_empty(columns, masks) & ~columns.crowd
    if is_empty.any():
        first = int(np.argmax(is_empty))
        log.warnings.append(
            f"{int(is_empty.sum())} of {len(is_empty)} annotations of {log.path} have {log.shapes} without a pixel, "
            f"which nothing can match: the first is {_name(columns.annotations[first], first)}"
        )
    if not columns.areas.any() and not is_empty.all():
        log.warnings.append(
            f"the area of all {len(is_empty)} annotations of {log.path} is 0, so that all count as small; leave area "
            "out, and it is computed"
        )


def _find_empty(columns: Columns, masks: list[dict[str, Any]] | None) -> NDArray[np.bool_]:
    if masks is None:
        has_no_side: NDArray[np.bool_] = (columns.boxes[:, 2:] == 0).any(axis=1)
        return has_no_side
    spread = np.unique(np.linspace(0, len(masks) - 1, min(SAMPLE, len(masks))).astype(np.int64))
    if rle.measure_areas([masks[n] for n in spread]).all():
        return np.zeros(len(masks), bool)
    is_empty: NDArray[np.bool_] = rle.measure_areas(masks) == 0
    return is_empty


def _name(annotation: dict[str, Any], index: int) -> str:
    return f"annotation {annotation['id']}" if "id" in annotation else f"annotations[{index}]"


def _describe(columns: Columns, n: int, image: NDArray[np.int64], log: TruthLog) -> str:
    """Return the file name and size of an annotation's image; `image` (M,) are those of the annotations looked at."""
    return f"{log.files[image[n]]} of {_pixels(columns.sizes[image[n]])} pixels"


def _pixels(size: NDArray[np.int64]) -> str:
    return f"{size[1]}x{size[0]}"


def _point(point: NDArray[np.float64]) -> str:
    return f"({point[0]:g}, {point[1]:g})"


def shorten(names: Sequence[str]) -> str:
    """Return the first SHOWN names, and how many more there are."""
    return "; ".join(names[:SHOWN]) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
