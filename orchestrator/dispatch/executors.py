"""What an executor is: it has the missing shards of a run predicted somewhere."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast

from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.dispatcher import Dispatched
from orchestrator.dispatch.slurm.settings import SlurmOptions
from orchestrator.errors import UsageError
from orchestrator.hardware import Choice, Gpu
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.runtimes.base import BuildOptions, Runtime
from orchestrator.system.display import Display


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
    leases: bool = True
    """Whether the run takes GPUs of its own; not where its workers have theirs already."""
    most_gpus: Callable[[int], int] = lambda gpus: gpus
    """How many of the GPUs that it could use the run may hold at this moment."""
    asked_workers: int | None = None
    workers_per_gpu: int | Literal["auto"] | None = None
    """What was asked for, for machines whose GPUs are not seen from here."""
    build: BuildOptions = field(default_factory=BuildOptions)
    """How the variant was prepared, for machines that prepare it again."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


class Executor(Protocol):
    """Says where workers run; orthogonal to the runtime, which says how."""

    def choose(self, entry: ModelEntry, variant: str | None, device: str | None) -> tuple[Choice, tuple[Gpu, ...]]:
        """The variant and device for the machines where workers run, and the GPUs seen here that decided it.

        AUTO where only those machines can tell. Raises UsageError, MachineError.
        """

    def dispatch(self, work: Work, display: Display) -> Dispatched | None:
        """Have the shards that are missing predicted. Raises Interrupted, RunError, MachineError.

        None: others do that from now on, and collect; `orchestrator.dispatch.attach` follows them.
        """


EXECUTORS = {
    "local": "orchestrator.dispatch.local:LocalExecutor",
    "slurm": "orchestrator.dispatch.slurm.executor:SlurmExecutor",
}


def make_executor(name: str) -> Executor:
    """The executor of that name. Raises UsageError."""
    if name not in EXECUTORS:
        raise UsageError(f"there is no executor {name!r}", why=f"there is {', '.join(EXECUTORS)}")
    module, _, attribute = EXECUTORS[name].partition(":")
    return cast(Executor, getattr(importlib.import_module(module), attribute)())
