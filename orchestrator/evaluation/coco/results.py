"""The figures of an evaluation, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    map: float | None = None
    mar1: float | None = None
    mar100: float | None = None
    """Averages with equal weights over the same categories, where the protocol has them."""


@dataclass(frozen=True)
class FederatedMetrics:
    """LVIS's own figures: AP of its rare, common and frequent categories, recall with 300 instances of an image."""

    ap_rare: float | None
    ap_common: float | None
    ap_frequent: float | None
    ar300: float | None
    ar300_small: float | None
    ar300_medium: float | None
    ar300_large: float | None


@dataclass(frozen=True)
class AttributeMetrics:
    """Fashionpedia's figures (arXiv 2004.12276): an instance must reach an IoU and an F1 score of its attributes.

    `score`: an instance has the attributes that score higher. Without a number in its name, a figure is the mean over
    the thresholds .50, .55, … .95 of both; `ap_f1` takes any IoU. `per_category` has the AP of categories with
    attributes.
    """

    score: float
    ap: float | None
    ap_iou50: float | None
    ap_iou75: float | None
    ap_f1_50: float | None
    ap_f1_75: float | None
    ap_iou50_f1_50: float | None
    ap_iou50_f1_75: float | None
    ap_iou75_f1_50: float | None
    ap_iou75_f1_75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    ap_f1: float | None
    per_category: Mapping[int, float | None]


@dataclass(frozen=True)
class Evaluation:
    """COCO's twelve figures and more, in [0, 1]; None where nothing is annotated.

    `images` counts the annotated images, all of which count; `missing` of them, named in `missing_images`, have no
    predictions. `unknown_images` were predicted but are not annotated, and do not count. `counts` are those at
    `counts_iou`, of detections that score at least `counts_score`. With `federated`, all figures are by LVIS's rules,
    which have no recall with 1, 10 or 100 detections. `attributes`: where annotations and model have any. `warnings`
    say what of the truth is doubtful; `skipped_annotations` names each annotation that does not count, and why.
    """

    protocol: str
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
    federated: FederatedMetrics | None = None
    attributes: AttributeMetrics | None = None
    warnings: tuple[str, ...] = ()
    skipped_annotations: tuple[str, ...] = ()


Figures = Mapping[str, Callable[[Evaluation], float | None]]

FIGURES: Figures = {
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
_FEDERATED: Figures = {
    "APr": lambda evaluation: None if evaluation.federated is None else evaluation.federated.ap_rare,
    "APc": lambda evaluation: None if evaluation.federated is None else evaluation.federated.ap_common,
    "APf": lambda evaluation: None if evaluation.federated is None else evaluation.federated.ap_frequent,
    "AR300": lambda evaluation: None if evaluation.federated is None else evaluation.federated.ar300,
}
_ATTRIBUTES: Figures = {
    "AP_IoU+F1": lambda evaluation: None if evaluation.attributes is None else evaluation.attributes.ap,
}


def choose_figures(evaluations: Sequence[Evaluation]) -> Figures:
    """Return FIGURES, or LVIS's where its rules apply, and those of attributes if an evaluation has them."""
    figures = dict(FIGURES)
    if any(evaluation.federated is not None for evaluation in evaluations):
        figures = {**{name: FIGURES[name] for name in FIGURES if not name.startswith(("AR", "mAP"))}, **_FEDERATED}
    if any(evaluation.attributes is not None for evaluation in evaluations):
        figures |= _ATTRIBUTES
    return figures
