"""Figures of probability masks, from the histogram of their 256 levels inside and outside the true mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
FIXED = 128  # the first level above 0.5: 128/255


@dataclass(frozen=True)
class PixelFigures:
    """Means over manipulated images of F1 and IoU, where a pixel is called manipulated from `threshold` on."""

    threshold: float
    f1: float
    iou: float


@dataclass(frozen=True)
class ImageFigures:
    """Of whole images, manipulated ones being what is looked for, from the probability `threshold` on."""

    threshold: float
    f1: float
    accuracy: float


@dataclass(frozen=True)
class Localization:
    """How well manipulated pixels and images are found, in [0, 1]; None where nothing can be said.

    `fixed` figures are at a threshold chosen beforehand, `best` ones at the one threshold that gives this data set's
    highest F1: an upper bound, chosen with knowledge of the truth. `pixel_auc` is the mean of each manipulated image's
    area under the ROC curve, `image_auc` that of the images' probabilities.
    """

    images: int
    manipulated: int
    pixel_fixed: PixelFigures | None
    pixel_best: PixelFigures | None
    pixel_auc: float | None
    image_fixed: ImageFigures | None
    image_best: ImageFigures | None
    image_auc: float | None
    image_scores_from: str
    missing_images: tuple[str, ...]
    unknown_images: tuple[str, ...]
    failed_images: tuple[str, ...]


def histogram(levels: NDArray[np.uint8], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(2,256) how many pixels of each level lie outside and inside the truth; both arrays are (H,W)."""
    counted = np.bincount((levels.astype(np.int64) + LEVELS * truth).reshape(-1), minlength=2 * LEVELS)
    return counted.reshape(2, LEVELS)


def pixel_figures(
    histograms: Sequence[NDArray[np.int64]],
) -> tuple[PixelFigures | None, PixelFigures | None, float | None]:
    """At 0.5, at the best threshold, and the AUC, of (2,256) histograms; genuine images have none."""
    manipulated = [one for one in histograms if one[1].any()]
    if not manipulated:
        return None, None, None
    stacked = np.stack(manipulated).astype(np.float64)
    # From level n on, as n goes from 0 to 255.
    reached = np.cumsum(stacked[:, :, ::-1], axis=2)[:, :, ::-1]
    false, true = reached[:, 0], reached[:, 1]
    there = stacked[:, 1].sum(axis=1)[:, None]
    f1 = (2 * true / (there + true + false)).mean(axis=0)
    iou = (true / (there + false)).mean(axis=0)
    # Level 0 would call every pixel manipulated, which is no threshold one would choose.
    best = 1 + int(np.argmax(f1[1:]))
    fixed, chosen = (
        PixelFigures(threshold, float(f1[level]), float(iou[level]))
        for threshold, level in ((0.5, FIXED), (best / (LEVELS - 1), best))
    )
    areas = [auc_of_levels(one) for one in manipulated if one[0].any()]
    return fixed, chosen, float(np.mean(areas)) if areas else None


def auc_of_levels(counted: NDArray[np.int64]) -> float:
    """The chance that a pixel inside has a higher level than one outside, equal levels counting half."""
    outside, inside = counted.astype(np.float64)
    below = np.cumsum(outside) - outside
    return float((inside * (below + outside / 2)).sum() / (inside.sum() * outside.sum()))


def image_figures(
    scores: NDArray[np.float64], manipulated: NDArray[np.bool_]
) -> tuple[ImageFigures | None, ImageFigures | None, float | None]:
    """At 0.5, at the best threshold, and the AUC, of (I,) probabilities."""
    if not len(scores):
        return None, None, None
    fixed = _at(scores > 0.5, manipulated, 0.5)
    return fixed, _best(scores, manipulated), _auc(scores, manipulated)


def _best(scores: NDArray[np.float64], manipulated: NDArray[np.bool_]) -> ImageFigures:
    """At the threshold of the highest F1; of several, the highest threshold."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    right = np.cumsum(manipulated[order])
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + max(int(manipulated.sum()), 1))
    whole = np.append(falling[1:] != falling[:-1], True)  # equal scores are called together
    threshold = float(falling[int(np.argmax(np.where(whole, f1, -1.0)))])
    return _at(scores >= threshold, manipulated, threshold)


def _at(called: NDArray[np.bool_], manipulated: NDArray[np.bool_], threshold: float) -> ImageFigures:
    right = int((called & manipulated).sum())
    total = int(called.sum()) + int(manipulated.sum())
    return ImageFigures(threshold, 2 * right / total if total else 0.0, float((called == manipulated).mean()))


def _auc(scores: NDArray[np.float64], manipulated: NDArray[np.bool_]) -> float | None:
    inside, outside = scores[manipulated], np.sort(scores[~manipulated])
    if not len(inside) or not len(outside):
        return None
    below = np.searchsorted(outside, inside, side="left")
    equal = np.searchsorted(outside, inside, side="right") - below
    return float((below + equal / 2).sum() / (len(inside) * len(outside)))
