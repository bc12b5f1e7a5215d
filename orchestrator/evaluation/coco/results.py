"""The figures of an evaluation, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DetectionCounts:
    """Right detections (tp), wrong detections (fp), and missed annotations (fn)."""

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float | None:
        """tp / (tp + fp); None without detections."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        """tp / (tp + fn); None without annotations."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None


@dataclass(frozen=True)
class CategoryMetrics:
    """One category: figures in [0, 1], None where the annotations have no instance of it.

    `annotated_images` and `annotations` count the truth; `weight` is the category's share in the weighted averages,
    None if it has none.
    """

    id: int
    name: str
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    annotated_images: int
    annotations: int
    counts: DetectionCounts
    weight: float | None


@dataclass(frozen=True)
class WeightedAverages:
    """FashionFail's averages over categories, weighted by how many images have each (arXiv 2404.08582)."""

    map_w: float | None
    map_w50: float | None
    map_w75: float | None
    mar_w1: float | None
    mar_w100: float | None
    categories: int


@dataclass(frozen=True)
class Evaluation:
    """COCO's twelve figures and more, in [0, 1]; None where nothing is annotated.

    `images` counts the annotated images, all of which count; `missing` of them, named in `missing_images`, have no
    predictions. `unknown_images` were predicted but are not annotated, and do not count. `counts` are those at
    `counts_iou`, of detections that score at least `counts_score`. `warnings` say what of the truth is doubtful;
    `skipped_annotations` names each annotation that does not count, and why.
    """

    iou: str
    engine: str
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    weighted: WeightedAverages
    counts: DetectionCounts
    counts_iou: float
    counts_score: float
    per_category: tuple[CategoryMetrics, ...]
    images: int
    missing: int
    missing_images: tuple[str, ...]
    unknown_images: tuple[str, ...]
    failed_images: tuple[str, ...]
    detections: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    skipped_annotations: tuple[str, ...] = ()


FIGURES: Mapping[str, Callable[[Evaluation], float | None]] = {
    "AP": lambda evaluation: evaluation.ap,
    "AP50": lambda evaluation: evaluation.ap50,
    "AP75": lambda evaluation: evaluation.ap75,
    "APs": lambda evaluation: evaluation.ap_small,
    "APm": lambda evaluation: evaluation.ap_medium,
    "APl": lambda evaluation: evaluation.ap_large,
    "AR1": lambda evaluation: evaluation.ar1,
    "AR100": lambda evaluation: evaluation.ar100,
    "mAP_w": lambda evaluation: evaluation.weighted.map_w,
    "mAP_w@50": lambda evaluation: evaluation.weighted.map_w50,
    "mAP_w@75": lambda evaluation: evaluation.weighted.map_w75,
}
"""The figures that tables, baselines and gates show, by their names there."""
