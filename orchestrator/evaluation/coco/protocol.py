"""What a project's own evaluation on COCO annotations does differently from COCO's; COCO's own is the default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.averages import Averages, compute_category_weights, compute_weighted
from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.ground_truth import Truth
from orchestrator.evaluation.coco.results import WeightedAverages
from orchestrator.predictions import Predictions

Weights = dict[int, float]


@dataclass(frozen=True)
class CocoProtocol:
    """The rules of one evaluation. A field without a value of its own is COCO's rule."""

    name: str
    categories: tuple[int, ...] = ()
    """Ids of the categories that are evaluated, annotated or not; empty: those of the annotations."""
    adapt: Callable[[Detections], Detections] = lambda detections: detections
    """Change boxes and areas of detections as the project's conversion of predictions does."""
    counts_unannotated: bool = True
    """Whether detections of a category without annotations count as false positives."""
    weigh: Callable[[Truth, Predictions], Weights] = compute_category_weights
    """Return the weights of categories in the weighted averages."""
    average: Callable[[Averages, Truth, Weights], WeightedAverages] = compute_weighted
    note: Callable[[Predictions, Truth], list[str]] = lambda predictions, truth: []
    """Return sentences on what the figures of these predictions and this truth mean."""

    def choose_categories(self, truth: Truth, chosen: list[int], names: Mapping[int, str]) -> Truth:
        """Return the truth of the evaluated categories; `names` are for those that the annotations lack.

        `chosen` are the ids that the user asked for. UsageError where the protocol has its own.
        """
        if not self.categories:
            return truth.keep_categories(chosen) if chosen else truth
        if chosen and set(chosen) != set(self.categories) & truth.categories.keys():
            raise UsageError(
                f"--categories cannot be used with the protocol {self.name}",
                why=f"it evaluates {len(self.categories)} categories of its own",
                hint="leave out --categories, or use --protocol coco",
            )
        kept = truth.keep_categories(self.categories)
        known = {**names, **truth.categories}
        categories = {number: known.get(number, str(number)) for number in self.categories}
        return replace(kept, categories=categories, federation=None)


COCO = CocoProtocol("coco")


def read_category_names(predictions: Predictions) -> dict[int, str]:
    """Return the names of the predictions' categories by id."""
    return {int(entry["id"]): str(entry["name"]) for entry in predictions.meta.get("categories", [])}
