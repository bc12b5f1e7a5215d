"""The gallery of the page: choose the images it shows, and make what is drawn over each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation import Iou, JudgedRun, MatchedRun, OpenedRun, Truth, measure_agreement, select_rows
from orchestrator.predictions import STATUS_FAILED, Predictions, find_images, to_xywh
from orchestrator.reports.html.thumbnails import SIDE, Thumbnail, fit_size, make_thumbnail, shrink_mask
from orchestrator.reports.image_files import Finder

NEVER_DECODED = (400, 120)  # size on the page, in pixels, of an image that no run could decode


@dataclass(frozen=True)
class PageLimits:
    """Limits of the gallery: images, megabytes, instances per panel, and their least score."""

    images: int = 240
    megabytes: float = 16.0
    instances: int = 60
    min_score: float = 0.3


@dataclass
class Gallery:
    """Images as the page's script reads them, their bytes, and whether the limit of bytes was reached."""

    images: list[dict[str, Any]] = field(default_factory=list)
    bytes: int = 0
    is_full: bool = False
    unreadable: int = 0

    def add(self, entry: dict[str, Any], limits: PageLimits) -> bool:
        """Add an image unless the limit of bytes forbids it; return whether it was added."""
        weight = len(str(entry))
        if self.images and self.bytes + weight > limits.megabytes * 1e6:
            self.is_full = True
            return False
        self.bytes += weight
        self.images.append(entry)
        return True


@dataclass(frozen=True)
class Material:
    """Everything that pictures are made from; `judged` is empty without annotations."""

    runs: Sequence[OpenedRun]
    finders: Sequence[Finder | None]
    truth: Truth | None
    judged: Sequence[JudgedRun | MatchedRun]
    iou: Iou
    limits: PageLimits


def measure_disagreement(material: Material) -> NDArray[np.float64]:
    """Return (I,) the disagreement on each image of the first run, from 0 to 1.

    Between runs it is the share of instances without a partner in the other run (IoU 0.5, same category), the mean
    over pairs of runs; for a single run with annotations, the share without a partner in the truth. Only instances
    that score at least `limits.min_score` count.
    """
    runs = material.runs
    if len(runs) == 1:
        return measure_errors(material)
    return np.array([measure_image_disagreement(material, file) for file in runs[0].predictions.files], np.float64)


def measure_image_disagreement(material: Material, file: str) -> float:
    """Return the disagreement of two or more runs on one image; see `measure_disagreement`."""
    pairs = list(combinations((run.predictions for run in material.runs), 2))
    shares = (measure_agreement(*pair, file, material.iou, material.limits.min_score) for pair in pairs)
    return sum(1 - share for share in shares) / len(pairs)


def measure_errors(material: Material) -> NDArray[np.float64]:
    """Return (I,) the share of instances of the only run and of the truth that have no partner."""
    predictions = material.runs[0].predictions
    if material.truth is None:
        return np.zeros(len(predictions))
    right, wrong, missed = _count_errors(material, material.truth)
    total = 2 * right + wrong + missed
    shares: NDArray[np.float64] = np.divide(wrong + missed, total, out=np.zeros(len(total)), where=total > 0)
    return shares


def _count_errors(material: Material, truth: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (I,) right, wrong and missed instances in each image of the first run, at IoU 0.5."""
    matches = material.judged[0].matches
    assert matches is not None
    is_shown = matches.scores >= material.limits.min_score
    right = np.bincount(matches.image[matches.right[0] & is_shown], minlength=len(truth))
    wrong = np.bincount(matches.image[matches.wrong[0] & is_shown], minlength=len(truth))
    annotated = np.bincount(truth.image[~truth.crowd], minlength=len(truth))
    indices = find_in_truth(truth, material.runs[0].predictions)
    counts = (np.where(indices >= 0, part[indices], 0) for part in (right, wrong, annotated - right))
    return tuple(counts)  # type: ignore[return-value]


def find_in_truth(truth: Truth, predictions: Predictions) -> NDArray[np.int64]:
    """Return (I,) each image's index in the truth, -1 where it is not annotated."""
    if not len(truth):
        return np.full(len(predictions), -1, np.int64)
    return find_images(predictions.files, truth.files)


def choose_images(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Choose images, in their order: all, or half those of the highest scores and half spread evenly."""
    if len(scores) <= count:
        return np.arange(len(scores))
    by_score = np.argsort(-scores, kind="stable")[: count // 2]
    rest = np.setdiff1d(np.arange(len(scores)), by_score)
    spread = rest[np.linspace(0, len(rest) - 1, count - len(by_score)).astype(np.int64)]
    return np.union1d(by_score, spread)


def build_gallery(material: Material, disagreement: NDArray[np.float64], chosen: Sequence[int]) -> Gallery:
    """Make pictures and overlays of the chosen images of the first run, up to the limit of bytes."""
    gallery = Gallery()
    panels = Panels(material)
    # Highest disagreement first: the limit drops the images with the least.
    for image in sorted(chosen, key=lambda number: -disagreement[number]):
        file = material.runs[0].predictions.files[image]
        picture, problem = make_picture(material.runs, material.finders, file)
        size = fit_without_picture(material.runs, file) if picture is None else (picture.width, picture.height)
        gallery.unreadable += picture is None
        entry = {
            "n": image,
            "file": file,
            "size": list(size),
            "url": "" if picture is None else picture.url,
            "note": problem,
            "apart": round(float(disagreement[image]), 3),
            "panels": panels.make(file, size),
        }
        if not gallery.add(entry, material.limits):
            break
    gallery.images.sort(key=lambda entry: int(entry["n"]))
    return gallery


def make_picture(
    runs: Sequence[OpenedRun], finders: Sequence[Finder | None], file: str
) -> tuple[Thumbnail | None, str]:
    """Return the picture of the first run that has the image, or None and the reason."""
    problem = "the image files are not known: only predictions were given"
    for run, finder in zip(runs, finders, strict=True):
        if finder is None:
            continue
        try:
            return make_thumbnail(finder(file), run.predictions.meta.get("exif") != "ignore"), ""
        except (OSError, ValueError, KeyError) as error:
            problem = f"the image cannot be shown: {error}"
    return None, problem


def fit_without_picture(runs: Sequence[OpenedRun], file: str, side: int = SIDE) -> tuple[int, int]:
    """Return the size on the page, width and height, of an image whose picture is not made."""
    height, width = find_size(runs, file)
    return fit_size(width, height, side) if height and width else NEVER_DECODED


def find_size(runs: Sequence[OpenedRun], file: str) -> tuple[int, int]:
    """Return the height and width of an image, zeros where no run could decode it."""
    sizes = [run.predictions.image_size[run.predictions.index(file)].tolist() for run in runs]
    height, width = max(sizes)
    return height, width


class Panels:
    """What is drawn over an image: first the truth, if there is one, then each run's instances.

    An instance is [category, score, box, mask, right]: `right` is 1 or 0 at IoU 0.5, null without a truth.
    """

    def __init__(self, material: Material) -> None:
        self._material = material
        self._right: list[dict[int, int]] = []
        self._scores_of_annotations: list[NDArray[np.float64]] = []
        self._index_in_truth: dict[str, int] = {}
        if material.truth is not None:
            first = material.runs[0].predictions
            indices = find_in_truth(material.truth, first).tolist()
            self._index_in_truth = dict(zip(first.files, indices, strict=True))
        for judged in material.judged:
            matches, truth = judged.matches, material.truth
            assert matches is not None
            assert truth is not None
            rows = judged.joined.detections.row[matches.index]
            self._right.append(dict(zip(rows.tolist(), (~matches.wrong[0]).astype(int).tolist(), strict=True)))
            scores = np.zeros(len(truth.image))
            is_matched = matches.partner[0] >= 0
            scores[matches.partner[0][is_matched]] = matches.scores[is_matched]
            scores[truth.crowd] = np.nan
            self._scores_of_annotations.append(scores)

    def make(self, file: str, size: tuple[int, int]) -> list[dict[str, Any]]:
        """Return the panels of an image that is shown at `size` (width, height)."""
        truth, index = self._material.truth, self._index_in_truth.get(file, -1)
        panels = [] if truth is None else [self._make_truth_panel(truth, index, size)]
        for number, run in enumerate(self._material.runs):
            panels.append(self._make_run_panel(run.predictions, number, file, size, index))
        return panels

    def _list_scores(self, run: int, index: int) -> list[float | None]:
        """Return for each annotation of an image the score of its match, 0 without a match, None for a crowd."""
        assert self._material.truth is not None
        scores = self._scores_of_annotations[run][self._material.truth.image == index].tolist()
        return [None if np.isnan(score) else round(score, 3) for score in scores]

    def _make_truth_panel(self, truth: Truth, index: int, size: tuple[int, int]) -> dict[str, Any]:
        if index < 0:
            return {"error": "not annotated"}
        numbers = np.flatnonzero(truth.image == index).tolist()
        height, width = truth.sizes[index].tolist()
        if not width or not height:
            return {"error": "the annotations do not say the image's size"}
        shown = []
        for number in numbers:
            mask = _scale_mask(None if truth.masks is None else truth.masks[number], size)
            box = _scale_box(truth.boxes[number], size, (width, height))
            shown.append([int(truth.category[number]), None, box, mask, None])
        return {"instances": shown}

    def _make_run_panel(
        self, predictions: Predictions, run: int, file: str, size: tuple[int, int], index: int
    ) -> dict[str, Any]:
        image = predictions.index(file)
        if predictions.status[image] == STATUS_FAILED:
            return {"error": f"failed: {predictions.error[image]}"}
        limits = self._material.limits
        rows = select_rows(predictions, image, limits.min_score)
        height, width = predictions.image_size[image].tolist()
        right = self._right[run] if self._right and index >= 0 else {}
        shown = []
        for row in rows[: limits.instances].tolist():
            mask = {"counts": predictions.counts(row), "size": [height, width]} if predictions.has_masks else None
            box = _scale_box(to_xywh(predictions.boxes[row]), size, (width, height))
            score = round(float(predictions.scores[row]), 3)
            shown.append([int(predictions.classes[row]), score, box, _scale_mask(mask, size), right.get(row)])
        panel: dict[str, Any] = {"instances": shown}
        if len(rows) > limits.instances:
            panel["more"] = len(rows) - limits.instances
        if self._scores_of_annotations and index >= 0:
            panel["found"] = self._list_scores(run, index)
        return panel


def _scale_box(box: NDArray[np.float64], size: tuple[int, int], original: tuple[int, int]) -> list[float]:
    """Return x, y, width, height at the size shown, rounded to a tenth of a pixel."""
    scale = np.array([size[0] / original[0], size[1] / original[1]] * 2)
    return [round(side, 1) for side in (box * scale).tolist()]


def _scale_mask(mask: dict[str, Any] | None, size: tuple[int, int]) -> list[Any] | None:
    return None if mask is None else shrink_mask(mask["counts"], list(mask["size"]), *size)
