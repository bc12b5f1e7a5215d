"""A machine as a pure value: its GPUs, their driver, and why GPUs cannot be used."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import MachineError, UsageError
from orchestrator.system import describe_errors

FORMAT = "orch-machine/1"
BROKEN_HINT = "repair the driver, or ask for the CPU: --device cpu"
Platform = Literal["linux", "wsl2", "jetson"]


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses a GPU; `memory` in MiB where the driver reports it."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    pid: int
    memory: int | None = None


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one: memory in MiB (0: not known), compute capability as "8.6"."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    index: int  # the driver's number of the GPU; slices of a GPU share it
    uuid: str  # "GPU-…" or "MIG-…"; an index where no UUID is known
    name: str
    memory: int
    capability: str
    driver: str
    free: int | None = None  # MiB of memory that is not in use
    mig: str | None = None  # the profile of a MIG slice: "3g.20gb"
    parent: str | None = None  # the UUID of the GPU that a slice is part of
    processes: tuple[GpuProcess, ...] = ()

    @property
    def device(self) -> str:
        """The GPU as WorkerSpec.device names it."""
        return f"cuda:{self.uuid}"


@dataclass(frozen=True)
class Machine:
    """What decides where a model can run on a machine."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    gpus: tuple[Gpu, ...] = ()  # the GPUs that may be used, in order; a GPU cut into MIG slices is listed as its slices
    driver: str | None = None
    cuda: str | None = None  # the newest CUDA that the driver knows
    platform: Platform = "linux"
    model: str | None = None  # the maker's name of the board, where that matters: a Jetson
    lacks: str | None = None  # why there is no GPU, where there is none
    broken: str | None = None  # the driver's error, where it does not answer
    notes: tuple[str, ...] = ()  # one sentence for each GPU that is present but cannot be used
    source: str = "nothing"  # where this was read: NVML, nvidia-smi, the container engine, a file

    def usable_gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs. Raises MachineError where the driver is broken: using the CPU would hide that."""
        if self.broken is not None:
            raise MachineError("the GPU driver does not answer", why=self.broken, hint=BROKEN_HINT)
        return self.gpus

    def require_gpus(self, hint: str = "orch doctor") -> tuple[Gpu, ...]:
        """Return the GPUs, at least one. Raises MachineError that says what is missing."""
        present = self.usable_gpus()
        if not present:
            why = "; ".join([self.lacks or "no GPU was detected", *self.notes])
            raise MachineError("this machine has no GPU that can be used", why=why, hint=hint)
        return present


def write_machine(machine: Machine) -> str:
    """Return the text of a file that `read_machine` reads."""
    return json.dumps({"format": FORMAT, **asdict(machine)}, indent=2) + "\n"


def read_machine(path: Path) -> Machine:
    """Read a description of a machine, written by orch or by hand. Raises UsageError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}", why=str(error)) from error
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise UsageError(f"{path} does not describe a machine", why=f'it must say "format": "{FORMAT}"')
    try:
        return TypeAdapter(Machine).validate_python(document)
    except ValidationError as error:
        why = "\n".join(describe_errors(error, path.name, Machine)[:3])
        raise UsageError(f"{path} does not describe a machine", why=why) from None
