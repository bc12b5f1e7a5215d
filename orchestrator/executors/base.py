"""What an executor is: it has the missing shards of a run predicted somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.dispatch import Dispatched
from orchestrator.paths import RunPaths
from orchestrator.plan import Plan
from orchestrator.progress import Display
from orchestrator.runtimes.base import Runtime


@dataclass(frozen=True)
class Work:
    """What an executor is handed: a plan that is on disk in its run directory, and with what to carry it out."""

    plan: Plan
    paths: RunPaths
    runtime: Runtime
    weights: Path
    """Folder of the model's weights."""
    devices: Sequence[str]
    """The worker at place i gets the device i modulo their number, as WorkerSpec.device names it."""
    workers: int = 1
    threads: int | None = None
    """Per worker; None: the cores there are, shared out."""
    wait: bool = True
    """Whether to wait where all GPUs are in use by other runs."""
    most_gpus: Callable[[int], int] = lambda gpus: gpus
    """How many of the GPUs that it could use the run may hold at this moment."""


class Executor(Protocol):
    """Says where workers run; orthogonal to the runtime, which says how."""

    def dispatch(self, work: Work, display: Display) -> Dispatched:
        """Have the shards that are missing predicted. Raises Interrupted, RunError, MachineError."""
