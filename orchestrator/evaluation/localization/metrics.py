"""Figures of probability masks, from histograms of their levels inside and outside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.uint8] | NDArray[np.float32]
LEVELS = 256
FIXED = 128  # the first level above 0.5: 128/255


@dataclass(frozen=True)
class PixelFigures:
    """Means of F1 and IoU over images; pixels from `threshold` on count as manipulated."""

    threshold: float
    f1: float
    iou: float


@dataclass(frozen=True)
class PermutedFigures:
    """Means over images of the better of two figures: that of the mask, and that of its inverse; F1 and IoU at 0.5."""

    f1: float
    iou: float
    auc: float | None


@dataclass(frozen=True)
class ImageFigures:
    """F1 and accuracy of whole images; those of at least `threshold` are predicted manipulated."""

    threshold: float
    f1: float
    accuracy: float


@dataclass(frozen=True)
class Localization:
    """How well manipulated pixels and images are found, in [0, 1]; None where a figure is not defined.

    `protocol` None: orch's own rules, where pixel figures are means over manipulated images. `fixed` figures are at a
    threshold chosen beforehand, `best` ones at the one threshold that gives this data set's highest F1: an upper bound,
    chosen with knowledge of the truth. `pixel_auc` is the mean of each image's area under the ROC curve, `image_auc`
    that of the images' probabilities. `warnings` say what of the true masks is doubtful; `skipped_masks` names the
    images that do not count, as their true masks cannot be used, and why. `data_sets` has the figures of each data set
    of a list with names.
    `category` is what the model looks for: with another one than manipulation, its images and pixels are meant wherever
    "manipulated" is said here.
    """

    protocol: str | None
    data_set: str | None
    images: int
    manipulated: int
    pixels_from: str
    pixel_fixed: PixelFigures | None
    pixel_best: PixelFigures | None
    pixel_auc: float | None
    pixel_permuted: PermutedFigures | None
    image_fixed: ImageFigures | None
    image_best: ImageFigures | None
    image_auc: float | None
    image_scores_from: str
    missing_images: tuple[str, ...]
    unknown_images: tuple[str, ...]
    failed_images: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    skipped_masks: tuple[str, ...] = ()
    data_sets: tuple[Localization, ...] = ()
    category: str = "manipulated"


def list_mask_figures(result: Localization) -> dict[str, float | None]:
    """Return the figures by the names that tables show; the best thresholds are among them, as runs differ in them."""
    figures = {
        "pixel F1 at 0.5": (result.pixel_fixed, "f1"),
        "pixel IoU at 0.5": (result.pixel_fixed, "iou"),
        "pixel F1 at the best threshold": (result.pixel_best, "f1"),
        "pixel IoU at the best threshold": (result.pixel_best, "iou"),
        "best threshold of pixels": (result.pixel_best, "threshold"),
        "pixel AUC": (result, "pixel_auc"),
        "permute-F1 at 0.5": (result.pixel_permuted, "f1"),
        "permute-IoU at 0.5": (result.pixel_permuted, "iou"),
        "permute-AUC": (result.pixel_permuted, "auc"),
        "image F1 at 0.5": (result.image_fixed, "f1"),
        "image accuracy at 0.5": (result.image_fixed, "accuracy"),
        "image F1 at the best threshold": (result.image_best, "f1"),
        "image accuracy at the best threshold": (result.image_best, "accuracy"),
        "best threshold of images": (result.image_best, "threshold"),
        "image AUC": (result, "image_auc"),
    }
    return {name: getattr(part, field, None) for name, (part, field) in figures.items()}


@dataclass(frozen=True)
class Measured:
    """One image compared with its truth: what all figures are computed from.

    `histogram` (2,256) counts the pixels of each level outside and inside the truth. `auc` is None where all pixels are
    on one side. `highest` is the highest probability of a pixel.
    """

    is_manipulated: bool
    histogram: NDArray[np.int64]
    auc: float | None
    highest: float


def measure(values: Values, truth: NDArray[np.bool_], is_manipulated: bool) -> Measured:
    """Compare (H,W) levels of 255, or probabilities, with the truth (H,W)."""
    if values.dtype == np.uint8:
        histogram = count_levels(values.astype(np.uint8), truth)
        auc = compute_auc(histogram) if histogram.any(axis=1).all() else None
        return Measured(is_manipulated, histogram, auc, float(values.max(initial=0)) / (LEVELS - 1))
    probability = values.astype(np.float32)
    auc = compute_auc_of_scores(probability.reshape(-1), truth.reshape(-1))
    return Measured(is_manipulated, count_levels(to_levels(probability), truth), auc, float(values.max(initial=0)))


def to_levels(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return levels of 255; those from FIXED on are exactly the probabilities above 0.5."""
    levels = np.clip(np.rint(probability * np.float32(LEVELS - 1)), 0, LEVELS - 1).astype(np.uint8)
    exact: NDArray[np.uint8] = np.where(
        probability > 0.5, np.maximum(levels, FIXED), np.minimum(levels, FIXED - 1)
    ).astype(np.uint8)
    return exact


def count_levels(levels: NDArray[np.uint8], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (2,256) the pixels of each level outside and inside the truth; both arrays are (H,W)."""
    counts = np.bincount((levels.astype(np.int64) + LEVELS * truth).reshape(-1), minlength=2 * LEVELS)
    return counts.reshape(2, LEVELS)


def compute_pixel_figures(
    histograms: Sequence[NDArray[np.int64]], genuine: int = 0
) -> tuple[PixelFigures | None, PixelFigures | None]:
    """Return figures at 0.5 and at the best threshold, of (2,256) histograms of manipulated images.

    `genuine` images count in the means, each as 0.
    """
    total = len(histograms) + genuine
    if not total:
        return None, None
    f1, iou = (figure.sum(axis=0) / total for figure in compute_overlap(histograms))
    # Level 0 is excluded: it would call every pixel manipulated.
    best = 1 + int(np.argmax(f1[1:]))
    fixed, chosen = (
        PixelFigures(threshold, float(f1[level]), float(iou[level]))
        for threshold, level in ((0.5, FIXED), (best / (LEVELS - 1), best))
    )
    return fixed, chosen


def compute_permuted_figures(
    histograms: Sequence[NDArray[np.int64]], areas: Sequence[float | None], genuine: int = 0
) -> PermutedFigures | None:
    """Return means of the better figure of mask and inverse; `areas` are as of `compute_mean_auc`."""
    total = len(histograms) + genuine
    if not total:
        return None
    f1, iou = compute_permuted_overlap(histograms)
    better = [None if area is None else max(area, 1 - area) for area in areas]
    return PermutedFigures(
        f1=float(f1.sum() / total),
        iou=float(iou.sum() / total),
        auc=compute_mean_auc(better, genuine),
    )


def compute_permuted_overlap(
    histograms: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (M,) F1 and IoU at 0.5 of each image: the better of mask and inverse."""
    false, true, inside, outside = _count_from_levels(histograms)
    false, true, inside, outside = false[:, FIXED], true[:, FIXED], inside[:, 0], outside[:, 0]
    f1, iou = _compute_overlap(true, false, inside)
    f1_inverse, iou_inverse = _compute_overlap(inside - true, outside - false, inside)
    return np.maximum(f1, f1_inverse), np.maximum(iou, iou_inverse)


def compute_overlap(
    histograms: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (M,256) F1 and IoU of each image, where the pixels from each level on are called manipulated."""
    false, true, inside, _ = _count_from_levels(histograms)
    return _compute_overlap(true, false, inside)


def compute_mean_auc(areas: Sequence[float | None], genuine: int = 0) -> float | None:
    """Return the mean area of manipulated images; those without an area are left out, `genuine` ones count as 0."""
    known = [area for area in areas if area is not None]
    return sum(known) / (len(known) + genuine) if known or genuine else None


def _compute_overlap(
    true: NDArray[np.float64], false: NDArray[np.float64], inside: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return F1 and IoU, from true and false positives and the pixels inside the truth; 0 without any of them."""
    return 2 * true / np.maximum(inside + true + false, 1), true / np.maximum(inside + false, 1)


def _count_from_levels(histograms: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.float64], ...]:
    """Return (M,256) false and true positives from each level on, and (M,1) pixels inside and outside the truth."""
    stacked = np.array(histograms, np.float64).reshape(-1, 2, LEVELS)
    reached = np.cumsum(stacked[:, :, ::-1], axis=2)[:, :, ::-1]
    return reached[:, 0], reached[:, 1], reached[:, 1, :1], reached[:, 0, :1]


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
    return fixed, _find_best(scores, manipulated), compute_auc_of_scores(scores, manipulated)


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


def compute_auc_of_scores(
    scores: NDArray[np.float64] | NDArray[np.float32], manipulated: NDArray[np.bool_]
) -> float | None:
    """Return the chance that a manipulated one scores higher than a genuine one; equal scores count half."""
    inside, outside = scores[manipulated], np.sort(scores[~manipulated])
    if not len(inside) or not len(outside):
        return None
    below = np.searchsorted(outside, inside, side="left")
    equal = np.searchsorted(outside, inside, side="right") - below
    return float((below + equal / 2).sum() / (len(inside) * len(outside)))
