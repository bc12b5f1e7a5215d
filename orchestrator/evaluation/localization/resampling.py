"""Means of figures over images in which each image occurs several times, for confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.localization.metrics import FIXED, Measured, compute_overlap, compute_permuted_overlap

RESAMPLED = (
    "pixel F1 at 0.5",
    "pixel IoU at 0.5",
    "pixel AUC",
    "permute-F1 at 0.5",
    "permute-IoU at 0.5",
    "permute-AUC",
    "image accuracy at 0.5",
    "pixel F1 at the best threshold",
)
"""Means over images by their names in `list_mask_figures`; the last one's threshold is chosen for each resample."""


class ResampledMeans:
    """Computes the figures RESAMPLED of one run's images, each as often as asked.

    `scores` (I,): the probabilities of whole images, None if there are none. `counts_genuine` is as of `MaskProtocol`.
    """

    def __init__(self, measured: Sequence[Measured], scores: NDArray[np.float64] | None, counts_genuine: bool) -> None:
        count = len(measured)
        has_pixels = np.array([bool(one.histogram[1].any()) for one in measured], np.bool_)
        counted = has_pixels | counts_genuine
        histograms = [one.histogram for one in measured if one.histogram[1].any()]
        self._f1 = np.zeros((count, 256))
        self._f1[has_pixels], iou = compute_overlap(histograms)
        areas = np.array([np.nan if one.auc is None else one.auc for one in measured], np.float64)
        with_area = np.where(has_pixels, ~np.isnan(areas), counted)
        area = np.where(has_pixels & with_area, areas, 0.0)
        better = np.where(has_pixels & with_area, np.maximum(area, 1 - area), 0.0)
        manipulated = np.array([one.is_manipulated for one in measured], np.bool_)
        right = np.zeros(count, np.bool_) if scores is None else (scores > 0.5) == manipulated
        overlaps = np.zeros((count, 3))
        overlaps[has_pixels] = np.stack((iou[:, FIXED], *compute_permuted_overlap(histograms)), axis=1)
        self._values = np.stack(
            (self._f1[:, FIXED], overlaps[:, 0], area, overlaps[:, 1], overlaps[:, 2], better, right), axis=1
        )
        self._weights = np.stack(
            (counted, counted, with_area, counted, counted, with_area, np.full(count, scores is not None)), axis=1
        ).astype(np.float64)
        self._counted = counted

    def __len__(self) -> int:
        return len(self._values)

    def __call__(self, times: NDArray[np.int64]) -> list[float]:
        """Return the figures of images that occur `times` (I,); nan where no image has the figure."""
        weights = times @ self._weights
        means = np.divide(times @ self._values, weights, out=np.full(len(weights), np.nan), where=weights > 0)
        return [*means.tolist(), float(self.average_f1(times)[1:].max())]

    def average_f1(self, times: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return (256,) the mean pixel F1 where the pixels from each level on are called manipulated."""
        how_often = np.ones(len(self), np.int64) if times is None else times
        total = float(how_often @ self._counted)
        if not total:
            return np.full(256, np.nan)
        mean: NDArray[np.float64] = how_often @ self._f1 / total
        return mean
