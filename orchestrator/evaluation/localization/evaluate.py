"""Manipulation localization: the probability masks of a run against true masks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

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
    compute_image_figures,
    compute_pixel_figures,
    count_levels,
)
from orchestrator.evaluation.runs import find_predictions
from orchestrator.predictions import STATUS_PREDICTED, Predictions, picture_path


def evaluate_masks(
    run: Path, source: Path | None = None, strict: bool = False, is_inverted: bool = False
) -> Localization:
    """Compare a run's masks/ with the true masks of `source`, or those recorded with its images.

    Images that failed or were not predicted count as predicted genuine. With `is_inverted` black pixels of true masks
    are manipulated. A share of SKIPPABLE of the true masks may be unreadable, unclear or of another size: these are
    skipped and named. UsageError when `run` is not a run directory, more true masks cannot be read, or `strict` and
    anything about them is doubtful; PredictionsError when masks are missing, broken or more are of another size.
    """
    predictions = Predictions.load(find_predictions(run))
    masks = run / "masks"
    if not run.is_dir() or not masks.is_dir():
        raise UsageError(f"{run} has no folder masks", why="only runs of models that localize manipulation have one")
    truth = read_recorded_masks(run) if source is None else read_masks(source, predictions.files)
    if not truth:
        raise UsageError(f"no true masks came with the images of {run}", hint=f"orch eval {run} --masks FOLDER")
    positions = find_positions(truth, predictions.files)
    if (positions < 0).all():
        raise PredictionsError(
            f"none of the images of {source} was predicted",
            why=f"the first is {truth[0].image!r} there and {next(iter(predictions.files), None)!r} here",
        )

    def compare(index: int) -> _Compared | OrchError:
        try:
            true = None if (path := truth[index].mask) is None else read_true_mask(path, is_inverted)
            return _compare_image(predictions, masks, truth[index], true, int(positions[index]))
        except (UsageError, _OtherSize) as error:
            return error

    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(compare, range(len(truth))))
    kept, warnings, skipped = skip_faulty(truth, outcomes)
    compared = [outcome for outcome in outcomes if isinstance(outcome, _Compared)]
    truth = [truth[index] for index in kept]
    warnings += describe_drawings(truth, [one.drawing for one in compared], is_inverted)
    if strict:
        refuse_warnings(warnings, source or run)
    found = _summarize(predictions, truth, positions[kept], compared)
    return replace(found, warnings=tuple(warnings), skipped_masks=tuple(skipped))


def _summarize(
    predictions: Predictions,
    truth: Sequence[TrueMask],
    positions: NDArray[np.int64],
    compared: Sequence[_Compared],
) -> Localization:
    histograms = [one.histogram for one in compared]
    manipulated = np.array([bool(histogram[1].any()) for histogram in histograms])
    given = predictions.image_scores
    scores = np.array([one.highest for one in compared])
    if given is not None:
        own = np.where(positions >= 0, given[positions], np.nan).astype(np.float64)
        scores = np.where(np.isnan(own), scores, own)
    pixel_fixed, pixel_best, pixel_auc = compute_pixel_figures(histograms)
    image_fixed, image_best, image_auc = compute_image_figures(scores, manipulated)
    used = set(positions[positions >= 0].tolist())
    failed = [n for n in used if predictions.status[n] != STATUS_PREDICTED]
    return Localization(
        images=len(truth),
        manipulated=int(manipulated.sum()),
        pixel_fixed=pixel_fixed,
        pixel_best=pixel_best,
        pixel_auc=pixel_auc,
        image_fixed=image_fixed,
        image_best=image_best,
        image_auc=image_auc,
        image_scores_from="the highest pixel of each mask" if given is None else "the model",
        missing_images=tuple(mask.image for mask, index in zip(truth, positions.tolist(), strict=True) if index < 0),
        unknown_images=tuple(file for n, file in enumerate(predictions.files) if n not in used),
        failed_images=tuple(predictions.files[n] for n in sorted(failed)),
    )


@dataclass(frozen=True)
class _Compared:
    """One image: the (2,256) histogram of levels outside and inside the truth, and its highest probability."""

    histogram: NDArray[np.int64]
    highest: float
    drawing: Drawing

    @classmethod
    def of(cls, levels: NDArray[np.uint8], true: DrawnMask) -> _Compared:
        return cls(count_levels(levels, true.inside), float(levels.max(initial=0)) / 255, true.drawing)


class _OtherSize(PredictionsError):
    """A true mask of another size than the predicted one."""


def _compare_image(
    predictions: Predictions, masks: Path, image: TrueMask, true: DrawnMask | None, index: int
) -> _Compared:
    """Compare one image; `true` None: it is genuine; `index` -1: not predicted."""
    if index < 0 or predictions.status[index] != STATUS_PREDICTED:
        true = true or DrawnMask(np.zeros((1, 1), np.bool_))
        return _Compared.of(np.zeros(true.inside.shape, np.uint8), true)
    file = predictions.files[index]
    path = picture_path(masks, file)
    if not path.is_file():
        hint = "run the same orch run again"
        raise PredictionsError(f"the mask of {file} is missing", why=f"no file {path}", hint=hint)
    levels = _read_levels(path)
    true = true or DrawnMask(np.zeros(levels.shape, np.bool_))
    if levels.shape != true.inside.shape:
        ours, theirs = (f"{shape[1]}x{shape[0]}" for shape in (levels.shape, true.inside.shape))
        is_rotated = levels.shape == true.inside.shape[::-1]
        raise _OtherSize(
            f"the mask of {file} is {ours} pixels, the true one {theirs}",
            why="they disagree on EXIF rotation" if is_rotated else f"the true one is {image.mask}",
            hint="orch run --exif apply|ignore, whichever the true masks follow" if is_rotated else None,
        )
    return _Compared.of(levels, true)


def _read_levels(path: Path) -> NDArray[np.uint8]:
    """Return (H,W) levels of a run's mask, from 0 to 255. PredictionsError when the file is not an image."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits: convert() would clip instead of scale
                return (np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
            return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PredictionsError(f"cannot read the mask {path}", why=str(error)) from error
