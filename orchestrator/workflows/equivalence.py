"""`orch equivalence`: run a model through two variants of its stack, and record whether the results agree.

Newer dependencies change results a little or a lot. `orch compare` reads the record before it compares two variants.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.catalog import ModelEntry
from orchestrator.dispatch import Outcome
from orchestrator.errors import MachineError, UsageError
from orchestrator.evaluation import ToleranceAgreement, Tolerances, compare_within_tolerances, write_record
from orchestrator.paths import home
from orchestrator.plan import RunOptions
from orchestrator.predictions import Predictions
from orchestrator.runtimes import find_variant
from orchestrator.system import Display
from orchestrator.workflows.run import run_model
from orchestrator.workflows.selftest import make_random_weights, selftest_photographs


@dataclass(frozen=True)
class Equivalence:
    """The result of a comparison, and the file that records it."""

    model: str
    variants: tuple[str, str]
    outcomes: tuple[Outcome, Outcome]
    agreement: ToleranceAgreement
    random_weights: bool
    record: Path

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "variants": list(self.variants),
            "random_weights": self.random_weights,
            "record": str(self.record),
            "runs": [str(outcome.paths.root) for outcome in self.outcomes],
            "versions": [outcome.summary["versions"] for outcome in self.outcomes],
            **self.agreement.as_json(),
        }


def check_equivalence(
    entry: ModelEntry,
    variants: Sequence[str],
    options: RunOptions,
    display: Display,
    *,
    folder: Path | None = None,
    random_weights: bool = False,
    tolerances: Tolerances | None = None,
    base_images: Mapping[str, str] | None = None,
) -> Equivalence:
    """Run the same images and weights through two variants and record how far they agree.

    Without images, three photographs are used. `folder` is kept; None empties and uses a folder in orch's cache.
    `base_images` has base images by variant. Raises UsageError, PredictionsError, and all that a run raises.
    """
    first, second = _check_variants(entry, variants)
    work = (folder or home() / "equivalence" / "runs" / f"{entry.name}-{first}-{second}").absolute()
    if folder is None:
        shutil.rmtree(work, ignore_errors=True)
    if not options.images:
        options = options.model_copy(update={"images": [str(selftest_photographs(work / "photographs"))]})
    of_variant = {name: _for_variant(options, name, work, base_images or {}) for name in (first, second)}
    if random_weights:
        make_random_weights(entry, of_variant[first], work, display)
        of_variant = {
            name: one.model_copy(update={"weights_folder": work / "weights"}) for name, one in of_variant.items()
        }
    try:
        outcomes = (run_model(entry, of_variant[first], display), run_model(entry, of_variant[second], display))
    except MachineError as error:
        if "weights" in error.message and error.hint is not None and not random_weights:
            error.hint += f"; or, to compare with random weights: orch equivalence {entry.name} --random-weights"
        raise
    loaded = tuple(Predictions.load(outcome.paths.predictions) for outcome in outcomes)
    found = compare_within_tolerances(loaded[0], loaded[1], tolerances or Tolerances())
    record = write_record(loaded[0].meta, loaded[1].meta, found, random_weights)
    return Equivalence(entry.name, (first, second), outcomes, found, random_weights, record)


def _check_variants(entry: ModelEntry, variants: Sequence[str]) -> tuple[str, str]:
    if len(variants) != 2 or variants[0] == variants[1]:
        why = f"{entry.stack.name} has {', '.join(entry.stack.spec.variants)}"
        raise UsageError("give two variants to compare", why=why, hint="--variants A,B")
    for name in variants:
        find_variant(entry.stack, name)
    return variants[0], variants[1]


def _for_variant(options: RunOptions, variant: str, work: Path, base_images: Mapping[str, str]) -> RunOptions:
    build = replace(options.build, base_image=base_images.get(variant, options.build.base_image))
    return options.model_copy(update={"variant": variant, "build": build, "out": work / variant})
