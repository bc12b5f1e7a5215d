"""Average precision of resampled images, from matches made once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.engines import RECALLS
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.coco.matching import Matches


class ResampledPrecision:
    """COCO's average precision of one set of predictions, with each image repeated any number of times.

    Matching works within one image, so only the order of scores and the counts depend on which images occur. Only
    right detections raise the recall, so precision is computed at those alone.
    """

    def __init__(self, truth: Truth, matches: Matches) -> None:
        category = truth.index_categories(matches.category)
        # By category, then as pycocotools: images in order, merge-sorted by falling score.
        order = np.lexsort((-matches.scores, category))
        self._category_count = len(truth.categories)
        self._image = matches.image[order]
        self._levels = [
            _Level(category[order], right, ignored, len(truth.categories))
            for right, ignored in zip(matches.right[:, order], matches.ignored[:, order], strict=True)
        ]
        counts = np.zeros((len(truth), len(truth.categories)))
        single = ~truth.crowd
        np.add.at(counts, (truth.image[single], truth.index_categories(truth.category[single])), 1)
        self._annotations = counts

    def __call__(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return average precision (T,K) with image i repeated `times[i]` times.

        `times` is (I,). The result is nan where nothing is annotated.
        """
        annotated = np.rint(times @ self._annotations).astype(np.int64)
        needed = _count_needed(annotated)
        weight = times[self._image]
        running = np.cumsum(weight)
        result = np.array([level.average(weight, running, needed) for level in self._levels])
        result = result.reshape(len(self._levels), self._category_count)
        result[:, annotated == 0] = np.nan
        return result


class _Level:
    """The detections at one threshold, by category and descending score."""

    def __init__(
        self, category: NDArray[np.int64], right: NDArray[np.bool_], ignored: NDArray[np.bool_], categories: int
    ) -> None:
        self._right = np.flatnonzero(right)
        self._kind = category[self._right]
        self._ignored = ignored if ignored.any() else None
        self._first = np.searchsorted(self._kind, np.arange(categories + 1))
        self._begins = np.searchsorted(category, np.arange(categories))
        # Grows from the last category to the first, so that a running maximum from the end restarts in each.
        self._lift = 2.0 * (categories - 1 - self._kind)

    def average(
        self, weight: NDArray[np.int64], running: NDArray[np.int64], needed: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return (K,) averages over RECALLS; `needed` (K,R) are the right detections that reach each recall."""
        if self._ignored is not None:
            running = np.cumsum(np.where(self._ignored, 0, weight))
        before = np.concatenate(([0], running))[self._begins]
        right = np.cumsum(weight[self._right])
        right_before = np.concatenate(([0], right))[self._first[:-1]]
        detections = running[self._right] - before[self._kind]
        precision = (right - right_before[self._kind]) / (detections + np.spacing(1))
        envelope = np.maximum.accumulate((precision + self._lift)[::-1])[::-1] - self._lift
        index = np.searchsorted(right, right_before[:, None] + needed)
        index = np.maximum(index, self._first[:-1, None])
        is_reached = index < self._first[1:, None]
        padded = np.append(envelope, 0.0)
        precision = np.where(is_reached, padded[np.minimum(index, len(envelope))], 0.0)
        averages: NDArray[np.float64] = precision.mean(axis=1)
        return averages


def _count_needed(annotated: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (K,R) the fewest right detections that reach each of RECALLS.

    Recalls are compared as floats, as COCO does.
    """
    total = np.maximum(annotated, 1)[:, None].astype(np.float64)
    needed = np.ceil(RECALLS * total)
    needed -= (needed > 0) & ((needed - 1) / total >= RECALLS)
    needed += needed / total < RECALLS
    whole: NDArray[np.int64] = needed.astype(np.int64)
    return whole
