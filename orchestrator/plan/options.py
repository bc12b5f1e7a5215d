"""What a user may ask of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.dispatch.slurm.settings import SlurmOptions
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
