"""Tasks with a probability per pixel: the mask pictures of a run against true masks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.errors import OrchError, PredictionsError, UsageError
from orchestrator.evaluation.coco.evaluate import refuse_warnings
from orchestrator.evaluation.localization.ground_truth import TrueMask, find_positions, read_masks, read_recorded_masks
from orchestrator.evaluation.localization.mask_checks import describe_drawings, skip_faulty
from orchestrator.evaluation.localization.mask_file import Drawing, DrawnMask, read_true_mask
from orchestrator.evaluation.localization.metrics import (
    Localization,
    Measured,
    Values,
    compute_image_figures,
    compute_mean_auc,
    compute_permuted_figures,
    compute_pixel_figures,
    measure,
)
from orchestrator.evaluation.localization.pixels import Pixels, Size, open_pixels, scale_truth
from orchestrator.evaluation.localization.protocol import OWN_RULES, MaskProtocol
from orchestrator.evaluation.localization.resampling import ResampledMeans
from orchestrator.evaluation.runs import find_predictions
from orchestrator.predictions import STATUS_PREDICTED, Predictions


def evaluate_masks(
    run: Path,
    source: Path | None = None,
    strict: bool = False,
    is_inverted: bool = False,
    rules: MaskProtocol = OWN_RULES,
) -> Localization:
    """Compare a run's masks/ with the true masks of `source`, or those recorded with its images.

    Images that failed or were not predicted count as predicted genuine. With `is_inverted` black pixels of true masks
    are manipulated. A share of SKIPPABLE of the true masks may be unreadable,
    unclear or of another size: these are skipped and named. UsageError when `run` is not a run directory, more true
    masks cannot be read, or `strict` and anything about them is doubtful; PredictionsError when masks are missing,
    broken or more are of another size.
    """
    predictions = Predictions.load(find_predictions(run))
    pixels = open_pixels(run, predictions, rules, read_levels)
    truth = read_truth(run, source, predictions.files)
    outcomes = compare_images(predictions, pixels, truth, find_truth(truth, predictions, source), is_inverted)
    return summarize(predictions, pixels, rules, truth, outcomes, is_inverted, (source or run) if strict else None)[0]


def read_truth(run: Path, source: Path | None, files: Sequence[str]) -> list[TrueMask]:
    """Return the true masks of `source`, or those recorded with a run's images. UsageError when there are none."""
    truth = read_recorded_masks(run) if source is None else read_masks(source, files)
    if not truth:
        raise UsageError(f"no true masks came with the images of {run}", hint=f"orch eval {run} --masks FOLDER")
    return truth


def find_truth(truth: Sequence[TrueMask], predictions: Predictions, source: Path | None) -> NDArray[np.int64]:
    """Return (T,) the index in the predictions of each true mask's image, -1 where not predicted.

    PredictionsError when none was predicted.
    """
    positions = find_positions(truth, predictions.files)
    if (positions < 0).all():
        raise PredictionsError(
            f"none of the images of {source or 'the true masks'} was predicted",
            why=f"the first is {truth[0].image!r} there and {next(iter(predictions.files), None)!r} here",
        )
    return positions


def compare_images(
    predictions: Predictions,
    pixels: Pixels,
    truth: Sequence[TrueMask],
    positions: NDArray[np.int64],
    is_inverted: bool,
) -> list[ComparedImage | OrchError]:
    """Compare each image with its true mask; where the mask cannot be used, return the error in its place."""

    def compare(index: int) -> ComparedImage | OrchError:
        try:
            return _compare_image(predictions, pixels, truth[index], is_inverted, int(positions[index]))
        except (UsageError, _OtherSize) as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(compare, range(len(truth))))


def summarize(
    predictions: Predictions,
    pixels: Pixels,
    rules: MaskProtocol,
    truth: Sequence[TrueMask],
    outcomes: Sequence[ComparedImage | OrchError],
    is_inverted: bool,
    strict_about: Path | None,
) -> tuple[Localization, ResampledMeans]:
    """Return the figures of images that were compared, and means over them that can be resampled.

    `strict_about`: the source of true masks about which warnings are errors; None: they are not. Raises the first error
    of `outcomes` when there are too many.
    """
    kept, warnings, skipped = skip_faulty(truth, outcomes)
    compared = [outcome for outcome in outcomes if isinstance(outcome, ComparedImage)]
    warnings += describe_drawings([truth[index] for index in kept], [one.drawing for one in compared], is_inverted)
    if strict_about is not None:
        refuse_warnings(warnings, strict_about)
    summary = _Summary(rules, predictions, pixels.words)
    found = replace(summary.make_all(compared), warnings=tuple(warnings), skipped_masks=tuple(skipped))
    scores, _ = summary.score_images(compared)
    return found, ResampledMeans([one.measured for one in compared], scores, rules.counts_genuine)


def describe_image_scores(predictions: Predictions, positions: NDArray[np.int64]) -> str:
    """Return where the scores of the predicted images at `positions` are from; -1 is an image not predicted."""
    used = positions[positions >= 0]
    used = used[predictions.status[used] == STATUS_PREDICTED]
    given = predictions.image_scores
    count = 0 if given is None else int((~np.isnan(given[used])).sum())
    if not count:
        return "the highest pixel of each mask"
    return "the model" if count == len(used) else f"the model for {count} of {len(used)} images, else the highest pixel"


def name_category(predictions: Predictions) -> str:
    """Return the name of the category that the probability is of: the first that the model predicts."""
    names = predictions.category_names
    native = predictions.meta.get("native")
    mapped = (native.get("class_map") if isinstance(native, dict) else None) or list(names)
    return names.get(mapped[0], str(mapped[0])) if mapped else "the category"


@dataclass(frozen=True)
class ComparedImage:
    """An image with its true mask, its index in the predictions (-1: not predicted), and how mask and truth compare."""

    truth: TrueMask
    index: int
    measured: Measured
    drawing: Drawing


@dataclass(frozen=True)
class _Summary:
    """Makes figures from images that were compared."""

    rules: MaskProtocol
    predictions: Predictions
    pixels_from: str

    def make_all(self, compared: Sequence[ComparedImage]) -> Localization:
        """Return the figures of all images, and of each data set that has a name."""
        names = dict.fromkeys(one.truth.data_set for one in compared if one.truth.data_set is not None)
        parts = (self._make(name, [one for one in compared if one.truth.data_set == name]) for name in names)
        used = {one.index for one in compared}
        unknown = tuple(file for index, file in enumerate(self.predictions.files) if index not in used)
        return replace(self._make(None, compared), unknown_images=unknown, data_sets=tuple(parts))

    def _make(self, data_set: str | None, compared: Sequence[ComparedImage]) -> Localization:
        measured = [one.measured for one in compared]
        manipulated = np.array([one.is_manipulated for one in measured])
        # On a small canvas a manipulated region can vanish.
        with_pixels = [one for one in measured if one.histogram[1].any()]
        genuine = len(measured) - len(with_pixels) if self.rules.counts_genuine else 0
        histograms, areas = [one.histogram for one in with_pixels], [one.auc for one in with_pixels]
        pixel_fixed, pixel_best = compute_pixel_figures(histograms, genuine)
        scores, scores_from = self.score_images(compared)
        image_fixed, image_best, image_auc = (
            (None, None, None) if scores is None else compute_image_figures(scores, manipulated)
        )
        failed = {n for one in compared if (n := one.index) >= 0 and self.predictions.status[n] != STATUS_PREDICTED}
        return Localization(
            protocol=self.rules.name,
            data_set=data_set,
            images=len(compared),
            manipulated=int(manipulated.sum()),
            pixels_from=self.pixels_from,
            pixel_fixed=pixel_fixed,
            pixel_best=pixel_best,
            pixel_auc=compute_mean_auc(areas, genuine),
            pixel_permuted=compute_permuted_figures(histograms, areas, genuine),
            image_fixed=image_fixed,
            image_best=image_best,
            image_auc=image_auc,
            image_scores_from=scores_from,
            missing_images=tuple(one.truth.image for one in compared if one.index < 0),
            unknown_images=(),
            failed_images=tuple(self.predictions.files[n] for n in sorted(failed)),
            category=name_category(self.predictions),
        )

    def score_images(self, compared: Sequence[ComparedImage]) -> tuple[NDArray[np.float64] | None, str]:
        """Return (I,) probabilities of images and their source; None where the rules need the model's and some lack."""
        highest = np.array([one.measured.highest for one in compared])
        given = self.predictions.image_scores
        indices = np.array([one.index for one in compared], np.int64)
        if given is None:
            own = np.full(len(compared), np.nan)
        else:
            own = np.where(indices >= 0, given[indices], np.nan).astype(np.float64)
        is_predicted = np.array(
            [index >= 0 and self.predictions.status[index] == STATUS_PREDICTED for index in indices.tolist()], bool
        )
        if self.rules.needs_image_scores and np.isnan(own[is_predicted]).any():
            return None, "the model, which gave none for some images or all"
        scores = np.where(np.isnan(own), highest, own)
        return scores, describe_image_scores(self.predictions, indices)


class _OtherSize(PredictionsError):
    """A true mask of another size than the image."""


def _compare_image(
    predictions: Predictions, pixels: Pixels, image: TrueMask, is_inverted: bool, index: int
) -> ComparedImage:
    """Compare one image with its truth; `index` -1: not predicted."""
    true = None if image.mask is None else read_true_mask(image.mask, is_inverted)
    if index < 0 or predictions.status[index] != STATUS_PREDICTED:
        true = true or DrawnMask(np.zeros((1, 1), np.bool_))
        inside = scale_truth(true.inside, pixels.size_of(_size(true.inside)))
        values: Values = np.zeros(inside.shape, np.uint8)
    else:
        file, size = predictions.files[index], _size_of_image(predictions, index)
        true = true or DrawnMask(np.zeros(size, np.bool_))
        if true.inside.shape != size:
            raise _other_size(file, size, _size(true.inside), image)
        values = pixels.read(file, size)
        inside = scale_truth(true.inside, _size(values))
    return ComparedImage(image, index, measure(values, inside, bool(true.inside.any())), true.drawing)


def _other_size(file: str, ours: Size, theirs: Size, image: TrueMask) -> _OtherSize:
    is_rotated = ours == theirs[::-1]
    return _OtherSize(
        f"the mask of {file} is {ours[1]}x{ours[0]} pixels, the true one {theirs[1]}x{theirs[0]}",
        why="they disagree on EXIF rotation" if is_rotated else f"the true one is {image.mask}",
        hint="orch run --exif apply|ignore, whichever the true masks follow" if is_rotated else None,
    )


def _size(values: NDArray[Any]) -> Size:
    return values.shape[0], values.shape[1]


def _size_of_image(predictions: Predictions, index: int) -> Size:
    height, width = predictions.image_size[index].tolist()
    return height, width


def read_levels(path: Path) -> NDArray[np.uint8]:
    """Return (H,W) levels of a run's mask, from 0 to 255. PredictionsError when the file is not an image."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits: convert() would clip instead of scale
                return (np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
            return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PredictionsError(f"cannot read the mask {path}", why=str(error)) from error
