"""Confidence intervals of differences, by resampling the images (Efron's percentile bootstrap, paired)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.resampling import ResampledPrecision

FIGURES = ("ap", "ap50", "ap75", "map_w")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A difference to the first run's figure, and the bounds that hold CONFIDENCE of the resampled differences."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def intervals(
    runs: Sequence[ResampledPrecision],
    images: int,
    weights: NDArray[np.float64],
    resamples: int,
    seed: int,
) -> list[dict[str, Interval]]:
    """For each run but the first, the interval of each of FIGURES' differences; empty without annotations.

    Each resample draws as many images as there are, with replacement, the same ones for all runs. `weights` (K,) are
    the shares of categories in mAP_w, those of all images.
    """
    rng = np.random.default_rng(seed)
    whole = np.array([_figures(run(np.ones(images, np.int64)), weights) for run in runs])
    drawn = np.empty((resamples, *whole.shape))
    for number in range(resamples):
        times = np.bincount(rng.integers(0, images, images), minlength=images)
        drawn[number] = [_figures(run(times), weights) for run in runs]
    return [_intervals(whole[place] - whole[0], drawn[:, place] - drawn[:, 0]) for place in range(1, len(runs))]


def _figures(precision: NDArray[np.float64], weights: NDArray[np.float64]) -> list[float]:
    """FIGURES of (T,K) average precisions; nan where nothing is annotated."""
    known = ~np.isnan(precision[0])
    if not known.any():
        return [np.nan] * len(FIGURES)
    there, share = precision[:, known], weights[known]
    weighted = float(there.mean(axis=0) @ share / share.sum()) if share.sum() else np.nan
    at = [float(there[np.isclose(THRESHOLDS, level)].mean()) for level in (0.5, 0.75)]
    return [float(there.mean()), *at, weighted]


def _intervals(difference: NDArray[np.float64], drawn: NDArray[np.float64]) -> dict[str, Interval]:
    tail = (1 - CONFIDENCE) / 2
    found = {}
    for place, name in enumerate(FIGURES):
        values = drawn[:, place][~np.isnan(drawn[:, place])]
        if len(values) and not np.isnan(difference[place]):
            low, high = np.quantile(values, (tail, 1 - tail))
            found[name] = Interval(float(difference[place]), float(low), float(high))
    return found
