"""What a user asks of a run, and the request that follows from it with the model's defaults filled in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.executors import EXECUTORS
from orchestrator.dispatch.slurm.settings import SlurmOptions
from orchestrator.errors import UsageError
from orchestrator.inputs.sources import expanded
from orchestrator.plan.limits import most_detections, score_floor
from orchestrator.plan.plan import Request
from orchestrator.runtimes.base import BuildOptions


@dataclass(frozen=True)
class RunOptions:
    """What a user asks of a run. None: the model's own default."""

    images: Sequence[str]
    out: Path | None = None
    image_root: Path | None = None
    runtime: str = "auto"
    executor: str = "local"
    variant: str | None = None
    device: str | None = None
    exif: str = "apply"
    score_threshold: float | None = None
    max_detections: int | None = None
    batch_size: int | None = None
    settings: Sequence[str] = ()
    shard_size: int | None = None
    workers: int | None = None
    """None: one on the CPU, one on each GPU."""
    workers_per_gpu: int | Literal["auto"] | None = None
    """"auto": as many as the GPU's free memory has room for, where the model says what it needs."""
    wait: bool = True
    """Wait where all GPUs are in use by other runs."""
    threads: int | None = None
    offline: bool = False
    warm: bool | None = None
    """True: warm workers alone; False: none; None: where fitting ones are up."""
    spool: Path | None = None
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    build: BuildOptions = field(default_factory=BuildOptions)
    weights_folder: Path | None = None
    """Take the weights from here instead of the cache: for the self-test's random ones."""


def make_request(entry: ModelEntry, options: RunOptions, runtime: str, variant: str, device: str) -> Request:
    """The request with the model's defaults filled in. Raises UsageError."""
    defaults = entry.spec.defaults
    if options.exif not in ("apply", "ignore"):
        raise UsageError(f"--exif {options.exif}: must be apply or ignore")
    if options.executor not in EXECUTORS:
        raise UsageError(f"there is no executor {options.executor!r}", why=f"there is {', '.join(EXECUTORS)}")
    settings = entry.settings(options.settings)
    return Request(
        model=entry.name,
        images=tuple(_absolute(source) for source in options.images),
        image_root=None if options.image_root is None else str(options.image_root.absolute()),
        runtime=runtime,
        variant=variant,
        device=device,
        exif=options.exif,
        score_threshold=score_floor(entry, settings, options.score_threshold),
        max_detections=most_detections(entry, settings, options.max_detections),
        batch_size=options.batch_size or defaults.batch_size,
        settings=settings,
        shard_size=options.shard_size,
    )


def _absolute(source: str) -> str:
    return os.path.abspath(expanded(source))
