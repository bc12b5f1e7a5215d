"""The gallery's images: which ones are shown, and what is drawn over each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.ground_truth import Iou, Truth
from orchestrator.evaluation.compare.agreement import overlaps, paired_levels
from orchestrator.evaluation.compare.compare import Judged
from orchestrator.evaluation.runs import Source
from orchestrator.predictions.annotations import find_images
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_FAILED
from orchestrator.reports.html.thumbnails import Thumbnail, fitted, small_mask, thumbnail

Finder = Callable[[str], Path]
NEVER_DECODED = (400, 120)


@dataclass(frozen=True)
class Limits:
    """What the page may hold: images in the gallery, bytes of their pictures and overlays, instances a panel."""

    images: int = 240
    megabytes: float = 16.0
    instances: int = 60
    min_score: float = 0.3


@dataclass
class Gallery:
    """Images as the page's script reads them, and a sentence on how they were chosen."""

    images: list[dict[str, Any]] = field(default_factory=list)
    bytes: int = 0
    full: bool = False
    unreadable: int = 0


@dataclass(frozen=True)
class Material:
    """All that pictures are made from; `judged` is empty without annotations."""

    sources: Sequence[Source]
    finders: Sequence[Finder | None]
    truth: Truth | None
    judged: Sequence[Judged]
    iou: Iou
    limits: Limits


def disagreement(material: Material) -> NDArray[np.float64]:
    """(I,) for each image of the first run, from 0 to 1, of instances that score at least `limits.min_score`.

    Between runs it is the share of instances without their like in the other run (IoU 0.5, same category), the mean
    over pairs of runs; for a single run with annotations, the share without their like in the truth.
    """
    sources = material.sources
    if len(sources) == 1:
        return _disagreement_with_truth(material)
    total = np.zeros(len(sources[0].predictions))
    pairs = [(a, b) for place, a in enumerate(sources) for b in sources[place + 1 :]]
    for first, second in pairs:
        total += _apart(first.predictions, second.predictions, sources[0].predictions.files, material)
    mean: NDArray[np.float64] = total / len(pairs)
    return mean


def _apart(first: Predictions, second: Predictions, files: Sequence[str], material: Material) -> NDArray[np.float64]:
    found = np.zeros(len(files))
    for place, file in enumerate(files):
        rows, others = (_shown(one, one.index(file), material.limits.min_score) for one in (first, second))
        total, paired = len(rows) + len(others), 0
        for number in np.intersect1d(first.classes[rows], second.classes[others]).tolist():
            ours, theirs = rows[first.classes[rows] == number], others[second.classes[others] == number]
            paired += paired_levels(overlaps(first, ours, second, theirs, material.iou))[0]
        found[place] = 1 - 2 * paired / total if total else 0.0
    return found


def _disagreement_with_truth(material: Material) -> NDArray[np.float64]:
    predictions = material.sources[0].predictions
    if material.truth is None:
        return np.zeros(len(predictions))
    right, wrong, missed = error_counts(material, 0)
    total = 2 * right + wrong + missed
    shares: NDArray[np.float64] = np.divide(wrong + missed, total, out=np.zeros(len(total)), where=total > 0)
    return shares


def error_counts(material: Material, run: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(I,) right, wrong and missed instances in each image of the first run, at IoU 0.5 and `limits.min_score`."""
    truth, judged = material.truth, material.judged[run]
    assert truth is not None
    assert judged.matches is not None
    counted = judged.matches.scores >= material.limits.min_score
    images = judged.matches.image
    right = np.bincount(images[judged.matches.right[0] & counted], minlength=len(truth))
    wrong = np.bincount(images[judged.matches.wrong[0] & counted], minlength=len(truth))
    there = np.bincount(truth.image[~truth.crowd], minlength=len(truth))
    places = places_in(truth, material.sources[0].predictions)
    known = places >= 0
    return tuple(np.where(known, part[places], 0) for part in (right, wrong, there - right))  # type: ignore[return-value]


def places_in(truth: Truth, predictions: Predictions) -> NDArray[np.int64]:
    """(I,) each image's place in the truth, -1 where it is not annotated."""
    if not len(truth):
        return np.full(len(predictions), -1, np.int64)
    return find_images(predictions.files, truth.files)


def choose(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Which images to show, in their order: all, or half the ones of the highest score, and half spread evenly."""
    if len(scores) <= count:
        return np.arange(len(scores))
    by_score = np.argsort(-scores, kind="stable")[: count // 2]
    rest = np.setdiff1d(np.arange(len(scores)), by_score)
    spread = rest[np.linspace(0, len(rest) - 1, count - len(by_score)).astype(np.int64)]
    return np.union1d(by_score, spread)


def build(material: Material, apart: NDArray[np.float64], chosen: Sequence[int]) -> Gallery:
    """Pictures and overlays of the chosen images of the first run, until the budget is spent."""
    gallery = Gallery()
    panels = _Panels(material)
    # The most telling first: whatever the budget cuts off is what matters least.
    for image in sorted(chosen, key=lambda one: -apart[one]):
        file = material.sources[0].predictions.files[image]
        picture, problem = _picture(material, file)
        size = [0, 0] if picture is None else [picture.width, picture.height]
        if picture is None:
            size = list(_size(material, file))
            gallery.unreadable += 1
        entry = {
            "n": image,
            "file": file,
            "size": size,
            "url": "" if picture is None else picture.url,
            "note": problem,
            "apart": round(float(apart[image]), 3),
            "panels": panels.of(file, (size[0], size[1])),
        }
        weight = len(str(entry))
        if gallery.images and gallery.bytes + weight > material.limits.megabytes * 1e6:
            gallery.full = True
            break
        gallery.bytes += weight
        gallery.images.append(entry)
    gallery.images.sort(key=lambda one: int(one["n"]))
    return gallery


def _picture(material: Material, file: str) -> tuple[Thumbnail | None, str]:
    """The image from the first run that has it, and otherwise why there is none."""
    problem = "the image files are not known: only predictions were given"
    for source, finder in zip(material.sources, material.finders, strict=True):
        if finder is None:
            continue
        try:
            return thumbnail(finder(file), source.predictions.meta.get("exif") != "ignore"), ""
        except (OSError, ValueError, KeyError) as error:
            problem = f"the image cannot be shown: {error}"
    return None, problem


def _size(material: Material, file: str) -> tuple[int, int]:
    """What an image without a picture takes on the page: width, height."""
    sizes = [source.predictions.image_size[source.predictions.index(file)].tolist() for source in material.sources]
    height, width = max(sizes)
    return fitted(width, height) if height and width else NEVER_DECODED


def _shown(predictions: Predictions, image: int, min_score: float) -> NDArray[np.int64]:
    part = predictions.rows(image)
    rows: NDArray[np.int64] = part.start + np.flatnonzero(predictions.scores[part] >= min_score)
    return rows


class _Panels:
    """What is drawn over an image: first the truth, if there is one, then each run's instances.

    An instance is [category, score, box, mask, right]: `right` 1 or 0 at IoU 0.5, null where nothing says.
    """

    def __init__(self, material: Material) -> None:
        self._material = material
        self._right: list[dict[int, int]] = []
        self._found: list[NDArray[np.float64]] = []
        self._places: dict[str, int] = {}
        if material.truth is not None:
            first = material.sources[0].predictions
            self._places = dict(zip(first.files, places_in(material.truth, first).tolist(), strict=True))
        for judged in material.judged:
            matches, truth = judged.matches, material.truth
            assert matches is not None
            assert truth is not None
            rows = judged.joined.detections.row[matches.place]
            self._right.append(dict(zip(rows.tolist(), (~matches.wrong[0]).astype(int).tolist(), strict=True)))
            found = np.zeros(len(truth.image))
            matched = matches.partner[0] >= 0
            found[matches.partner[0][matched]] = matches.scores[matched]
            found[truth.crowd] = np.nan
            self._found.append(found)

    def of(self, file: str, size: tuple[int, int]) -> list[dict[str, Any]]:
        """The panels of an image that is shown at `size` (width, height)."""
        truth, place = self._material.truth, self._places.get(file, -1)
        panels = [] if truth is None else [self._truth(truth, place, size)]
        for number, source in enumerate(self._material.sources):
            panels.append(self._run(source.predictions, number, file, size, place))
        return panels

    def _scores_of_truth(self, run: int, place: int) -> list[float | None]:
        """For each annotation of an image the score of what found it, 0 for nothing, None for a crowd."""
        assert self._material.truth is not None
        scores = self._found[run][self._material.truth.image == place].tolist()
        return [None if np.isnan(score) else round(score, 3) for score in scores]

    def _truth(self, truth: Truth, place: int, size: tuple[int, int]) -> dict[str, Any]:
        if place < 0:
            return {"error": "not annotated"}
        numbers = np.flatnonzero(truth.image == place).tolist()
        height, width = truth.sizes[place].tolist()
        if not width or not height:
            return {"error": "the annotations do not say the image's size"}
        shown = [
            [
                int(truth.category[number]),
                None,
                _box(truth.boxes[number], size, (width, height)),
                _mask(truth.masks[number] if truth.masks is not None else None, size),
                None,
            ]
            for number in numbers
        ]
        return {"instances": shown}

    def _run(self, predictions: Predictions, run: int, file: str, size: tuple[int, int], place: int) -> dict[str, Any]:
        image = predictions.index(file)
        if predictions.status[image] == STATUS_FAILED:
            return {"error": f"failed: {predictions.error[image]}"}
        limits = self._material.limits
        rows = _shown(predictions, image, limits.min_score)
        height, width = predictions.image_size[image].tolist()
        right = self._right[run] if self._right and place >= 0 else {}
        shown = []
        for row in rows[: limits.instances].tolist():
            corners = predictions.boxes[row].astype(np.float64)
            box = np.concatenate((corners[:2], corners[2:] - corners[:2]))
            mask = {"counts": predictions.counts(row), "size": [height, width]}
            shown.append(
                [
                    int(predictions.classes[row]),
                    round(float(predictions.scores[row]), 3),
                    _box(box, size, (width, height)),
                    _mask(mask, size),
                    right.get(row),
                ]
            )
        panel: dict[str, Any] = {"instances": shown}
        if len(rows) > limits.instances:
            panel["more"] = len(rows) - limits.instances
        if self._found and place >= 0:
            panel["found"] = self._scores_of_truth(run, place)
        return panel


def _box(box: NDArray[np.float64], size: tuple[int, int], original: tuple[int, int]) -> list[float]:
    """x, y, width, height at the size shown, to a tenth of a pixel."""
    scale = np.array([size[0] / original[0], size[1] / original[1]] * 2)
    return [round(side, 1) for side in (box * scale).tolist()]


def _mask(mask: dict[str, Any] | None, size: tuple[int, int]) -> list[Any] | None:
    return None if mask is None else small_mask(mask["counts"], list(mask["size"]), *size)
