"""Confidence intervals of differences by resampling images (paired percentile bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.resampling import ResampledPrecision

METHOD = (
    "paired percentile bootstrap of images: each resample draws as many images as there are, with replacement, the "
    "same ones for both runs; an interval holds the middle share `confidence` of the resampled differences"
)
RESAMPLED = ("ap", "ap50", "ap75", "map_w")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference to the first run's figure; CONFIDENCE of resampled ones are from `low` to `high`.

    `resamples` of the resampled differences are defined: in the others the drawn images have no annotation.
    """

    difference: float
    low: float
    high: float
    resamples: int

    @property
    def is_clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def compute_intervals(
    runs: Sequence[ResampledPrecision], images: int, weights: NDArray[np.float64], resamples: int, seed: int
) -> list[dict[str, Interval]]:
    """Return for each run but the first the intervals of RESAMPLED; empty without annotations.

    Each resample draws `images` images with replacement, the same ones for all runs. `weights` (K,) are the shares of
    categories in mAP_w; those of all images are used in every resample.
    """
    figures = [lambda times, run=run: _average(run(times), weights) for run in runs]
    return resample_differences(figures, RESAMPLED, images, resamples, seed)


def resample_differences(
    runs: Sequence[Callable[[NDArray[np.int64]], Sequence[float]]],
    names: Sequence[str],
    images: int,
    resamples: int,
    seed: int,
) -> list[dict[str, Interval]]:
    """Return for each run but the first the intervals of `names`; a figure that is nan has none.

    A run is a function from how often each image occurs (I,) to its figures, as many as `names`.
    """
    rng = np.random.default_rng(seed)
    whole = np.array([run(np.ones(images, np.int64)) for run in runs])
    drawn = np.empty((resamples, *whole.shape))
    for number in range(resamples):
        times = np.bincount(rng.integers(0, images, images), minlength=images)
        drawn[number] = [run(times) for run in runs]
    return [_bound(names, whole[index] - whole[0], drawn[:, index] - drawn[:, 0]) for index in range(1, len(runs))]


def _average(precision: NDArray[np.float64], weights: NDArray[np.float64]) -> list[float]:
    """Return the figures RESAMPLED of (T,K) average precisions; nan where nothing is annotated."""
    known = ~np.isnan(precision[0])
    if not known.any():
        return [np.nan] * len(RESAMPLED)
    values, share = precision[:, known], weights[known]
    weighted = float(values.mean(axis=0) @ share / share.sum()) if share.sum() else np.nan
    at = [float(values[np.isclose(THRESHOLDS, level)].mean()) for level in (0.5, 0.75)]
    return [float(values.mean()), *at, weighted]


def _bound(names: Sequence[str], difference: NDArray[np.float64], drawn: NDArray[np.float64]) -> dict[str, Interval]:
    """Return the intervals of differences (F,), given resampled differences (resamples, F)."""
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for index, name in enumerate(names):
        values = drawn[:, index][~np.isnan(drawn[:, index])]
        if len(values) and not np.isnan(difference[index]):
            low, high = np.quantile(values, (tail, 1 - tail))
            intervals[name] = Interval(float(difference[index]), float(low), float(high), len(values))
    return intervals
