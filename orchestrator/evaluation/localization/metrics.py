"""Figures of probability masks, from histograms of their levels inside and outside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
FIXED = 128  # the first level above 0.5: 128/255


@dataclass(frozen=True)
class PixelFigures:
    """Means of F1 and IoU over manipulated images; pixels from `threshold` on count as manipulated."""

    threshold: float
    f1: float
    iou: float


@dataclass(frozen=True)
class ImageFigures:
    """F1 and accuracy of whole images; those of at least `threshold` are predicted manipulated."""

    threshold: float
    f1: float
    accuracy: float


@dataclass(frozen=True)
class Localization:
    """How well manipulated pixels and images are found, in [0, 1]; None where a figure is not defined.

    `fixed` figures are at a threshold chosen beforehand, `best` ones at the one threshold that gives this data set's
    highest F1: an upper bound, chosen with knowledge of the truth. `pixel_auc` is the mean of each manipulated image's
    area under the ROC curve, `image_auc` that of the images' probabilities. `warnings` say what of the true masks is
    doubtful; `skipped_masks` names the images that do not count, as their true masks cannot be used, and why.
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
    warnings: tuple[str, ...] = ()
    skipped_masks: tuple[str, ...] = ()


def count_levels(levels: NDArray[np.uint8], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (2,256) the pixels of each level outside and inside the truth; both arrays are (H,W)."""
    counts = np.bincount((levels.astype(np.int64) + LEVELS * truth).reshape(-1), minlength=2 * LEVELS)
    return counts.reshape(2, LEVELS)


def compute_pixel_figures(
    histograms: Sequence[NDArray[np.int64]],
) -> tuple[PixelFigures | None, PixelFigures | None, float | None]:
    """Return figures at 0.5, at the best threshold, and the AUC, of (2,256) histograms.

    Genuine images have no pixel figures.
    """
    manipulated = [histogram for histogram in histograms if histogram[1].any()]
    if not manipulated:
        return None, None, None
    stacked = np.stack(manipulated).astype(np.float64)
    # Pixels of at least level n, for n from 0 to 255.
    reached = np.cumsum(stacked[:, :, ::-1], axis=2)[:, :, ::-1]
    false, true = reached[:, 0], reached[:, 1]
    total = stacked[:, 1].sum(axis=1)[:, None]
    f1 = (2 * true / (total + true + false)).mean(axis=0)
    iou = (true / (total + false)).mean(axis=0)
    # Level 0 is excluded: it would call every pixel manipulated.
    best = 1 + int(np.argmax(f1[1:]))
    fixed, chosen = (
        PixelFigures(threshold, float(f1[level]), float(iou[level]))
        for threshold, level in ((0.5, FIXED), (best / (LEVELS - 1), best))
    )
    areas = [compute_auc(histogram) for histogram in manipulated if histogram[0].any()]
    return fixed, chosen, float(np.mean(areas)) if areas else None


def compute_auc(histogram: NDArray[np.int64]) -> float:
    """Return the chance that a pixel inside has a higher level than one outside; equal levels count half."""
    outside, inside = histogram.astype(np.float64)
    below = np.cumsum(outside) - outside
    return float((inside * (below + outside / 2)).sum() / (inside.sum() * outside.sum()))


def compute_image_figures(
    scores: NDArray[np.float64], manipulated: NDArray[np.bool_]
) -> tuple[ImageFigures | None, ImageFigures | None, float | None]:
    """Return figures at 0.5, at the best threshold, and the AUC, of (I,) probabilities."""
    if not len(scores):
        return None, None, None
    fixed = _compute_at(scores > 0.5, manipulated, 0.5)
    return fixed, _find_best(scores, manipulated), _compute_image_auc(scores, manipulated)


def _find_best(scores: NDArray[np.float64], manipulated: NDArray[np.bool_]) -> ImageFigures:
    """Return the figures at the threshold of the highest F1; of several, the highest threshold."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    right = np.cumsum(manipulated[order])
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + max(int(manipulated.sum()), 1))
    whole = np.append(falling[1:] != falling[:-1], True)  # equal scores are on the same side of any threshold
    threshold = float(falling[int(np.argmax(np.where(whole, f1, -1.0)))])
    return _compute_at(scores >= threshold, manipulated, threshold)


def _compute_at(called: NDArray[np.bool_], manipulated: NDArray[np.bool_], threshold: float) -> ImageFigures:
    right = int((called & manipulated).sum())
    total = int(called.sum()) + int(manipulated.sum())
    return ImageFigures(threshold, 2 * right / total if total else 0.0, float((called == manipulated).mean()))


def _compute_image_auc(scores: NDArray[np.float64], manipulated: NDArray[np.bool_]) -> float | None:
    inside, outside = scores[manipulated], np.sort(scores[~manipulated])
    if not len(inside) or not len(outside):
        return None
    below = np.searchsorted(outside, inside, side="left")
    equal = np.searchsorted(outside, inside, side="right") - below
    return float((below + equal / 2).sum() / (len(inside) * len(outside)))
