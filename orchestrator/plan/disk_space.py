"""Disk preflight: what a build or a run will write, against what is free, before anything is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.catalog.loader import ModelEntry, StackEntry
from orchestrator.catalog.weights import weights_state
from orchestrator.paths import weights_folder
from orchestrator.runtimes.base import BuildOptions, Runtime
from orchestrator.runtimes.build_inputs import find_variant
from orchestrator.system.free_space import GB, Need

UNDECLARED_GB = {"cpu": 1.0, "cuda": 6.0}
"""Size of a variant whose stack.yaml has no size_gb: CUDA's libraries alone are 3 to 4 GB."""
BUILD_FACTOR = {"docker": 1.5}
"""An estimate: beside an image's layers, a build leaves the downloaded packages in its cache."""
OUTPUT_BYTES = 32_000
"""Per image, shards and predictions together: 13 kB were measured with 20 instances an image."""


def build_needs(stack: StackEntry, variant: str, runtime: Runtime, options: BuildOptions) -> Iterator[Need]:
    """What building a variant takes; nothing where it is built, or is built where this machine cannot look."""
    place = runtime.build_place(stack, variant, options)
    if place is None:
        return
    spec = find_variant(stack, variant)
    size = spec.size_gb or UNDECLARED_GB[spec.device]
    known = "" if spec.size_gb else ", a guess: its stack.yaml has no size_gb"
    needed = int(size * GB * BUILD_FACTOR.get(runtime.name, 1.0))
    yield Need(place, needed, f"building {stack.name}/{variant}{known}")


def weights_needs(entry: ModelEntry) -> Iterator[Need]:
    """What fetching a model's weights takes, as far as their sizes are known; archives lie there twice for a moment."""
    for key, spec in entry.spec.weights.items():
        size = spec.size or (spec.size_range[1] if spec.size_range else 0)
        if size and spec.url is not None and weights_state(entry, key) == "missing":
            needed = size * (2 if spec.unpack else 1)
            yield Need(weights_folder(entry.stack.name, entry.name), needed, f"weights {spec.file}")


def output_need(folder: Path, images: int) -> Need:
    """What a run's shards and predictions take, by experience."""
    return Need(folder, images * OUTPUT_BYTES, f"predictions of {images} images")
