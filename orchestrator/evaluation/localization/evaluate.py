"""Manipulation localization: the probability masks of a run against true masks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.localization.ground_truth import TrueMask, places_of, read_truth, recorded_truth
from orchestrator.evaluation.localization.metrics import (
    ImageFigures,
    Localization,
    PixelFigures,
    histogram,
    image_figures,
    pixel_figures,
)
from orchestrator.evaluation.runs import predictions_file
from orchestrator.predictions.mask_files import picture_path
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED

__all__ = ["ImageFigures", "Localization", "PixelFigures", "evaluate_masks"]

HALF = 127  # of 255: a pixel of the truth is manipulated above this


def evaluate_masks(run: Path, source: Path | None = None) -> Localization:
    """Compare a run's masks/ with the true masks of `source` (see `read_truth`); None: those its images came with.

    Images that failed or were not predicted count as called genuine throughout. UsageError when `run` is no run
    directory or a true mask cannot be read; PredictionsError when masks are missing, broken or of another size.
    """
    predictions = Predictions.load(predictions_file(run))
    masks = run / "masks"
    if not run.is_dir() or not masks.is_dir():
        raise UsageError(f"{run} has no folder masks", why="only runs of models that localize manipulation have one")
    truth = recorded_truth(run) if source is None else read_truth(source, predictions.files)
    if not truth:
        raise UsageError(f"no true masks came with the images of {run}", hint=f"orch eval {run} --masks FOLDER")
    places = places_of(truth, predictions.files)
    if (places < 0).all():
        raise PredictionsError(
            f"none of the images of {source} was predicted",
            why=f"the first is {truth[0].image!r} there and {next(iter(predictions.files), None)!r} here",
        )

    def counted(number: int) -> tuple[NDArray[np.int64], float]:
        return _compared(predictions, masks, truth[number], int(places[number]))

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(counted, range(len(truth))))
    return _summary(predictions, truth, places, found)


def _summary(
    predictions: Predictions,
    truth: Sequence[TrueMask],
    places: NDArray[np.int64],
    found: Sequence[tuple[NDArray[np.int64], float]],
) -> Localization:
    histograms = [one for one, _ in found]
    manipulated = np.array([bool(one[1].any()) for one in histograms])
    given = predictions.image_scores
    scores = np.array([highest for _, highest in found])
    if given is not None:
        own = np.where(places >= 0, given[places], np.nan).astype(np.float64)
        scores = np.where(np.isnan(own), scores, own)
    pixel_fixed, pixel_best, pixel_auc = pixel_figures(histograms)
    image_fixed, image_best, image_auc = image_figures(scores, manipulated)
    used = set(places[places >= 0].tolist())
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
        missing_images=tuple(one.image for one, place in zip(truth, places.tolist(), strict=True) if place < 0),
        unknown_images=tuple(file for n, file in enumerate(predictions.files) if n not in used),
        failed_images=tuple(predictions.files[n] for n in sorted(failed)),
    )


def _compared(predictions: Predictions, masks: Path, true: TrueMask, place: int) -> tuple[NDArray[np.int64], float]:
    """The histogram of one image, and its highest probability."""
    inside = None if true.mask is None else _levels(true.mask, "the true mask") > HALF
    if place < 0 or predictions.status[place] != STATUS_PREDICTED:
        if inside is None:
            inside = np.zeros((1, 1), np.bool_)
        return histogram(np.zeros(inside.shape, np.uint8), inside), 0.0
    file = predictions.files[place]
    path = picture_path(masks, file)
    if not path.is_file():
        raise PredictionsError(f"the mask of {file} is missing", why=f"there is no {path}", hint="orch run again")
    levels = _levels(path, "the mask")
    if inside is None:
        inside = np.zeros(levels.shape, np.bool_)
    if levels.shape != inside.shape:
        ours, theirs = (f"{shape[1]}x{shape[0]}" for shape in (levels.shape, inside.shape))
        turned = levels.shape == inside.shape[::-1]
        raise PredictionsError(
            f"the mask of {file} is {ours} pixels, the true one {theirs}",
            why="they disagree on EXIF rotation" if turned else f"the true one is {true.mask}",
            hint="orch run --exif apply|ignore, whichever the true masks follow" if turned else None,
        )
    return histogram(levels, inside), float(levels.max(initial=0)) / 255


def _levels(path: Path, what: str) -> NDArray[np.uint8]:
    """(H,W) grey levels from 0 to 255. UsageError when it is no image."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits: convert() would clip instead of scale
                return (np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
            return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot read {what} {path}", why=str(error)) from error
