"""Disk preflight: what a build or a run will write, against what is free, before anything is fetched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.catalog.loader import ModelEntry, StackEntry
from orchestrator.catalog.weights import weights_state
from orchestrator.errors import MachineError
from orchestrator.paths import weights_folder
from orchestrator.runtimes.base import BuildOptions, Runtime
from orchestrator.runtimes.build_inputs import find_variant

SKIP = "ORCH_SKIP_DISK_CHECK"
GB = 10**9
RESERVE = GB // 4
"""Left free on every disk: logs, locks, the machine itself."""
UNDECLARED_GB = {"cpu": 1.0, "cuda": 6.0}
"""Size of a variant whose stack.yaml has no size_gb: CUDA's libraries alone are 3 to 4 GB."""
BUILD_FACTOR = {"docker": 1.5}
"""An estimate: beside an image's layers, a build leaves the downloaded packages in its cache."""
OUTPUT_BYTES = 32_000
"""Per image, shards and predictions together: 13 kB were measured with 20 instances an image."""
HINT = f"orch prune --dry-run shows what orch could remove; $ORCH_HOME moves its cache; {SKIP}=1 goes on regardless"


@dataclass(frozen=True)
class Need:
    """Bytes that something will take in a folder, which need not be there yet."""

    folder: Path
    bytes: int
    what: str


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


def require_space(needs: Sequence[Need], purpose: str) -> None:
    """Raises MachineError, with the numbers, where a disk has too little for all that is to be written to it."""
    if os.environ.get(SKIP):
        return
    disks: dict[int, tuple[Path, list[Need]]] = {}
    for need in needs:
        folder = _existing(need.folder)
        disks.setdefault(folder.stat().st_dev, (folder, []))[1].append(need)
    short = [line for folder, wanted in disks.values() if (line := _shortage(folder, wanted)) is not None]
    if short:
        raise MachineError(f"not enough disk space for {purpose}", why="\n".join(short), hint=HINT)


def _shortage(folder: Path, wanted: Sequence[Need]) -> str | None:
    """A sentence where they do not fit on the folder's disk together."""
    free = shutil.disk_usage(folder).free
    needed = sum(need.bytes for need in wanted)
    if not needed or needed + RESERVE <= free:
        return None
    parts = ", ".join(f"{need.what} {need.bytes / GB:.1f} GB" for need in wanted if need.bytes)
    total = f"{(needed + RESERVE) / GB:.1f} GB needed"
    return f"{folder}: {total} ({parts}, and {RESERVE / GB:.2f} GB to spare), {free / GB:.1f} GB free"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
