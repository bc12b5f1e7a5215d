"""`orch equivalence`: one model through two variants of its stack, and a record of whether they give the same.

Moving a model to newer dependencies changes results a little or a lot; this says which, and `proven` tells others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import MachineError, UsageError
from orchestrator.evaluation.agreement import Agreement, Tolerances, agreement
from orchestrator.paths import home
from orchestrator.plan.options import RunOptions
from orchestrator.predictions.predictions import Predictions
from orchestrator.runtimes.build_inputs import find_variant
from orchestrator.system.display import Display
from orchestrator.system.files import write_json
from orchestrator.workflows.run import run_model
from orchestrator.workflows.selftest import make_random_weights, selftest_photographs

FORMAT = "orch-equivalence/1"


@dataclass(frozen=True)
class Equivalence:
    """The outcome of a comparison, and where it was recorded."""

    model: str
    variants: tuple[str, str]
    outcomes: tuple[Outcome, Outcome]
    agreement: Agreement
    random_weights: bool
    record: Path

    def as_json(self) -> dict[str, Any]:
        """For --json."""
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

    Without images, three photographs are taken. `folder` is kept, None takes one of orch's own anew. `base_images` has
    base images by variant. Raises UsageError, PredictionsError, and whatever a run raises.
    """
    first, second = _two(entry, variants)
    work = folder or home() / "equivalence" / "runs" / f"{entry.name}-{first}-{second}"
    if folder is None:
        shutil.rmtree(work, ignore_errors=True)
    if not options.images:
        options = replace(options, images=[str(selftest_photographs(work / "photographs"))])
    of_variant = {name: _for_variant(options, name, work, base_images or {}) for name in (first, second)}
    if random_weights:
        make_random_weights(entry, of_variant[first], work, display)
        of_variant = {name: replace(one, weights_folder=work / "weights") for name, one in of_variant.items()}
    try:
        outcomes = (run_model(entry, of_variant[first], display), run_model(entry, of_variant[second], display))
    except MachineError as error:
        if "weights" in error.message and error.hint is not None and not random_weights:
            error.hint += f"; or, to compare with random weights: orch equivalence {entry.name} --random-weights"
        raise
    loaded = tuple(Predictions.load(outcome.paths.predictions) for outcome in outcomes)
    found = agreement(loaded[0], loaded[1], tolerances or Tolerances())
    record = _record(loaded[0].meta, loaded[1].meta, found, random_weights)
    return Equivalence(entry.name, (first, second), outcomes, found, random_weights, record)


def _two(entry: ModelEntry, variants: Sequence[str]) -> tuple[str, str]:
    """The two variants. Raises UsageError."""
    if len(variants) != 2 or variants[0] == variants[1]:
        known = ", ".join(entry.stack.spec.variants)
        raise UsageError("give two variants to compare", why=f"{entry.stack.name} has {known}", hint="--variants A,B")
    for name in variants:
        find_variant(entry.stack, name)
    return variants[0], variants[1]


def _for_variant(options: RunOptions, variant: str, work: Path, base_images: Mapping[str, str]) -> RunOptions:
    build = replace(options.build, base_image=base_images.get(variant, options.build.base_image))
    return replace(options, variant=variant, build=build, out=work / variant)


def _record(first: Mapping[str, Any], second: Mapping[str, Any], found: Agreement, random_weights: bool) -> Path:
    path = record_path(first, second)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "stack": first["stack"],
        "model": first["model"],
        "variants": {str(meta["build"]): meta["variant"] for meta in (first, second)},
        "devices": [first["device"], second["device"]],
        "weights": first["weights"],
        "random_weights": random_weights,
        "inputs": first["inputs"],
        "score_threshold": first["score_threshold"],
        "settings": first["settings"],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "orch_version": __version__,
        **found.as_json(),
    }
    write_json(path, content)
    return path


def record_path(first: Mapping[str, Any], second: Mapping[str, Any]) -> Path:
    """Where the comparison of two predictions' variants is recorded, from their `meta`: the order does not matter."""
    key = [first["stack"], first["model"], sorted([first["build"], second["build"]]), _digests(first)]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return home() / "equivalence" / str(first["stack"]) / f"{first['model']}-{digest}.json"


def proven(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether a passed comparison is recorded for the very builds, model and weights of two predictions' `meta`."""
    if (first["stack"], first["model"], _digests(first)) != (second["stack"], second["model"], _digests(second)):
        return False
    try:
        record = json.loads(record_path(first, second).read_text(encoding="utf-8"))
        return bool(record["format"] == FORMAT and record["equivalent"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digests(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: weight["sha256"] for key, weight in meta["weights"].items()}
