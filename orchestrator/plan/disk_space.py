"""Compare what a build or a run will write with the free disk space, before anything is fetched."""

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
"""Bytes left free on every disk, for logs, locks and the machine itself."""
UNDECLARED_GB = {"cpu": 1.0, "cuda": 6.0}
"""Size of a variant whose stack.yaml has no size_gb: CUDA's libraries alone are 3 to 4 GB."""
OUTPUT_BYTES = 32_000
"""Per image, shards and predictions together: 13 kB were measured with 20 instances an image."""
HINT = f"orch prune --dry-run shows what orch could remove; $ORCH_HOME moves its cache; {SKIP}=1 skips this check"


@dataclass(frozen=True)
class Need:
    """Bytes that something will write into a folder, which may not exist yet."""

    folder: Path
    bytes: int
    what: str


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
        size = spec.size or (spec.size_range[1] if spec.size_range else 0)
        if size and spec.url is not None and weights_state(entry, key) == "missing":
            needed = size * (2 if spec.unpack else 1)
            yield Need(weights_folder(entry.stack.name, entry.name), needed, f"weights {spec.file}")


def output_need(folder: Path, images: int) -> Need:
    """Return what a run's shards and predictions write, by measurement."""
    return Need(folder, images * OUTPUT_BYTES, f"predictions of {images} images")


def require_space(needs: Sequence[Need], purpose: str) -> None:
    """Raise MachineError, with the numbers, where a disk has too little space for its needs together."""
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
    """Return a sentence where the needs do not fit on the folder's disk; None where they do."""
    free = shutil.disk_usage(folder).free
    needed = sum(need.bytes for need in wanted)
    if not needed or needed + RESERVE <= free:
        return None
    parts = ", ".join(f"{need.what} {need.bytes / GB:.1f} GB" for need in wanted if need.bytes)
    total = f"{(needed + RESERVE) / GB:.1f} GB needed"
    return f"{folder}: {total} ({parts}, and {RESERVE / GB:.2f} GB to spare), {free / GB:.1f} GB free"


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
