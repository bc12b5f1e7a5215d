"""The gallery of runs with true masks: each image, its true mask, and each run's probabilities as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.errors import OrchError
from orchestrator.evaluation import ComparedMasks, MaskComparison, OpenedRun, TrueMask, read_levels, read_true_mask
from orchestrator.predictions import PICTURES, STATUS_FAILED
from orchestrator.reports.html.gallery import (
    Gallery,
    PageLimits,
    choose_images,
    fit_without_picture,
    make_picture,
)
from orchestrator.reports.html.thumbnails import encode
from orchestrator.reports.image_files import Finder

Size = tuple[int, int]
HEAT = np.array([(10, 8, 40), (90, 20, 110), (190, 55, 85), (245, 130, 35), (252, 245, 160)])
"""Colours of the probabilities 0, 0.25, 0.5, 0.75 and 1; those between are interpolated."""
HEAT_TABLE = np.stack(
    [np.interp(np.arange(256), np.linspace(0, 255, len(HEAT)), channel) for channel in HEAT.T], axis=1
).astype(np.uint8)


def build_mask_gallery(
    comparison: MaskComparison, compared: ComparedMasks, finders: Sequence[Finder | None], limits: PageLimits
) -> Gallery:
    """Make the pictures of images of the first run, up to the limits.

    An image's disagreement is the largest difference of the runs' errors in it, for one run its error.
    """
    runs, errors = comparison.runs, compared.measure_errors()
    apart = errors[0] if len(runs) == 1 else errors.max(axis=0) - errors.min(axis=0)
    places = {one.index: place for place, one in enumerate(compared.outcomes[0])}
    files = runs[0].predictions.files
    disagreement = np.array([apart[places[image]] if image in places else 0.0 for image in range(len(files))])
    gallery = Gallery()
    for image in sorted(choose_images(disagreement, limits.images).tolist(), key=lambda number: -disagreement[number]):
        file, place = files[image], places.get(image)
        picture, problem = make_picture(runs, finders, file)
        size = fit_without_picture(runs, file) if picture is None else (picture.width, picture.height)
        gallery.unreadable += picture is None
        truth = None if place is None else compared.truth[place]
        error = None if place is None else errors[:, place]
        entry = {
            "n": image,
            "file": file,
            "size": list(size),
            "url": "" if picture is None else picture.url,
            "note": problem,
            "apart": round(float(disagreement[image]), 3),
            "panels": [
                {"words": ""},
                _make_truth_panel(truth, comparison.options.is_inverted, size),
                *(_make_run_panel(run, number, file, error, size) for number, run in enumerate(runs)),
            ],
        }
        if not gallery.add(entry, limits):
            break
    gallery.images.sort(key=lambda entry: int(entry["n"]))
    return gallery


def _make_truth_panel(truth: TrueMask | None, is_inverted: bool, size: Size) -> dict[str, Any]:
    """Return the true mask, white where manipulated."""
    if truth is None:
        return {"error": "no true mask"}
    if truth.mask is None:
        return {"url": encode(Image.new("L", size)).url, "words": "genuine"}
    try:
        inside = read_true_mask(truth.mask, is_inverted).inside
    except OrchError as error:
        return {"error": f"cannot be shown: {error}"}
    words = f"{inside.mean():.1%} manipulated" if inside.any() else "genuine"
    return {"url": encode(Image.fromarray(inside).convert("L").resize(size, Image.Resampling.BOX)).url, "words": words}


def _make_run_panel(
    run: OpenedRun, number: int, file: str, errors: NDArray[np.float64] | None, size: Size
) -> dict[str, Any]:
    """Return a run's probabilities as a heat map, and in words how right they are at 0.5."""
    predictions = run.predictions
    index = predictions.index(file)
    if predictions.status[index] == STATUS_FAILED:
        return {"error": f"failed: {predictions.error[index]}"}
    try:
        levels = read_levels(PICTURES.in_run(run.path, file))
    except OrchError as error:
        return {"error": f"cannot be shown: {error}"}
    small = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR))
    words = "" if errors is None else f"error {errors[number]:.2f}"
    given = predictions.image_scores
    if given is not None and not np.isnan(given[index]):
        words = f"{words}, image {given[index]:.2f}".removeprefix(", ")
    return {"url": encode(Image.fromarray(HEAT_TABLE[small])).url, "words": words}
