"""What a build or a run will write to disks, to be compared with their free space before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.catalog import ModelEntry, StackEntry, weights_state
from orchestrator.paths import weights_folder
from orchestrator.runtimes import BuildOptions, Runtime, find_variant
from orchestrator.system import GB, Need, count_of

UNDECLARED_GB = {"cpu": 1.0, "cuda": 6.0}
"""Size of a variant whose stack.yaml has no size_gb: CUDA's libraries alone are 3 to 4 GB."""
OUTPUT_BYTES = 32_000  # per image, shards and predictions together: 13 kB were measured with 20 instances an image


def build_needs(stack: StackEntry, variant: str, runtime: Runtime, options: BuildOptions) -> Iterator[Need]:
    """Yield what building a variant writes on this machine; nothing where it is built."""
    location = runtime.locate(stack, variant, options)
    if location.fill_folder is None:
        return
    spec = find_variant(stack, variant)
    size = spec.size_gb or UNDECLARED_GB[spec.device]
    known = "" if spec.size_gb else ", a guess: its stack.yaml has no size_gb"
    needed = int(size * GB * location.fill_factor)
    yield Need(location.fill_folder, needed, f"building {stack.name}/{variant}{known}")


def weights_needs(entry: ModelEntry) -> Iterator[Need]:
    """Yield what fetching a model's weights writes, if known; an archive needs its size twice."""
    for key, spec in entry.spec.weights.items():
        folder = weights_folder(entry.stack.name, entry.name)
        if spec.path is not None and not (folder / spec.file).exists() and Path(spec.path).is_file():
            yield Need(folder, Path(spec.path).stat().st_size, f"a copy of {spec.path}")
        size = spec.size or (spec.size_range[1] if spec.size_range else 0)
        if size and spec.url is not None and weights_state(entry, key) == "missing":
            needed = size * (2 if spec.unpack else 1)
            yield Need(folder, needed, f"weights {spec.file}")


def output_need(folder: Path, images: int) -> Need:
    """Return what a run's shards and predictions write, by measurement."""
    return Need(folder, images * OUTPUT_BYTES, f"predictions of {count_of(images, 'image')}")
