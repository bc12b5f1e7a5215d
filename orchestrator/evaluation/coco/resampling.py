"""Average precision of resampled images, from matches made once: what confidence intervals need, a thousand times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation.coco.engines import RECALLS
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.coco.matching import Matches


class ResampledPrecision:
    """COCO's average precision of one set of predictions when each image is there any number of times.

    Matching never looks beyond one image, so only the order of scores and the counting depend on which images there
    are. Only right detections move the recall, so precision is computed at those alone.
    """

    def __init__(self, truth: Truth, matches: Matches) -> None:
        ids = np.array(list(truth.categories), np.int64)
        category = np.searchsorted(ids, matches.category)
        # By category, then as pycocotools: images in order, merge-sorted by falling score.
        order = np.lexsort((-matches.scores, category))
        self._category_count = len(ids)
        self._image = matches.image[order]
        self._levels = [
            _Level(category[order], self._image, right, ignored, len(ids))
            for right, ignored in zip(matches.right[:, order], matches.ignored[:, order], strict=True)
        ]
        counts = np.zeros((len(truth), len(ids)))
        single = ~truth.crowd
        np.add.at(counts, (truth.image[single], np.searchsorted(ids, truth.category[single])), 1)
        self._annotations = counts

    def __call__(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """(T,K) average precision where image i is there `times[i]` times (I,); nan where nothing is annotated."""
        there = np.rint(times @ self._annotations).astype(np.int64)
        wanted = _needed(there)
        weight = times[self._image]
        running = np.cumsum(weight)
        result = np.array([level.precision(weight, running, wanted) for level in self._levels])
        result = result.reshape(len(self._levels), self._category_count)
        result[:, there == 0] = np.nan
        return result


class _Level:
    """The detections at one threshold, by category and falling score."""

    def __init__(
        self,
        category: NDArray[np.int64],
        image: NDArray[np.int64],
        right: NDArray[np.bool_],
        ignored: NDArray[np.bool_],
        categories: int,
    ) -> None:
        self._right = np.flatnonzero(right)
        self._kind = category[self._right]
        self._ignored = ignored if ignored.any() else None
        self._first = np.searchsorted(self._kind, np.arange(categories + 1))
        self._begins = np.searchsorted(category, np.arange(categories))
        # Higher from the last category to the first: a running maximum from behind starts anew in each.
        self._lift = 2.0 * (categories - 1 - self._kind)

    def precision(
        self, weight: NDArray[np.int64], running: NDArray[np.int64], wanted: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(K,) averages over RECALLS; `wanted` (K,R) right detections reach each recall."""
        if self._ignored is not None:
            running = np.cumsum(np.where(self._ignored, 0, weight))
        before = np.concatenate(([0], running))[self._begins]
        right = np.cumsum(weight[self._right])
        right_before = np.concatenate(([0], right))[self._first[:-1]]
        detections = running[self._right] - before[self._kind]
        precision = (right - right_before[self._kind]) / (detections + np.spacing(1))
        envelope = np.maximum.accumulate((precision + self._lift)[::-1])[::-1] - self._lift
        place = np.searchsorted(right, right_before[:, None] + wanted)
        place = np.maximum(place, self._first[:-1, None])
        reached = place < self._first[1:, None]
        padded = np.append(envelope, 0.0)
        found = np.where(reached, padded[np.minimum(place, len(envelope))], 0.0)
        averages: NDArray[np.float64] = found.mean(axis=1)
        return averages


def _needed(there: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K,R) the fewest right detections whose recall reaches each of RECALLS, by the comparison COCO makes."""
    total = np.maximum(there, 1)[:, None].astype(np.float64)
    needed = np.ceil(RECALLS * total)
    needed -= (needed > 0) & ((needed - 1) / total >= RECALLS)
    needed += needed / total < RECALLS
    whole: NDArray[np.int64] = needed.astype(np.int64)
    return whole
