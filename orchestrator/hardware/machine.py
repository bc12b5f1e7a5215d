"""A machine as a pure value: its GPUs, their driver, and why GPUs cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.driver_faults import find_next_step
from orchestrator.system import describe_errors

FORMAT = "orch-machine/1"
OR_CPU = "or ask for the CPU: --device cpu"
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

    index: int  # nvidia-smi's number of the GPU; slices of a GPU share it
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

    @property
    def label(self) -> str:
        """The GPU as tables show it and `--device` takes it: nvidia-smi's number; the UUID of a slice."""
        return str(self.index) if self.parent is None else self.uuid


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
    assigned: str | None = None  # "CUDA_VISIBLE_DEVICES=1", where that names a GPU that `lacks` says cannot be used
    broken: str | None = None  # the driver's error, where it does not answer
    notes: tuple[str, ...] = ()  # one sentence for each GPU that is present but cannot be used
    source: str = "nothing"  # where this was read: NVML, nvidia-smi, the container engine, a file

    def usable_gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs. Raises MachineError where using the CPU instead would hide a fault.

        That is a driver that is broken, or a GPU that a variable names and that cannot be used.
        """
        if self.broken is not None:
            step = find_next_step(self.broken, self.platform)
            raise MachineError("the GPU driver does not answer", why=self.broken, hint=f"{step}; {OR_CPU}")
        if self.assigned is not None:
            raise MachineError(f"{self.assigned} names a GPU that cannot be used", why=self.lacks, hint=self.reassign())
        return self.gpus

    def reassign(self) -> str:
        """Return the next step where `assigned` is set."""
        name = (self.assigned or "").partition("=")[0]
        return f"orch doctor; ask the scheduler for another GPU, unset {name}, {OR_CPU}"

    def require_gpus(self, hint: str = "orch doctor") -> tuple[Gpu, ...]:
        """Return the GPUs, at least one. Raises MachineError that says what is missing."""
        present = self.usable_gpus()
        if not present:
            why = "; ".join([self.lacks or "no GPU was detected", *self.notes])
            raise MachineError("this machine has no GPU that can be used", why=why, hint=hint)
        return present


def describe_lost(index: int | str, reason: str) -> str:
    """Return the sentence about a GPU that the driver lists and that does not answer."""
    return f"GPU {index} does not answer: {reason}"


def describe_unsliced(index: int) -> str:
    """Return the sentence about a GPU in MIG mode that nothing can run on."""
    return f"GPU {index} is in MIG mode and has no slices (sudo nvidia-smi mig -cgi PROFILE -C)"


def summarize(
    gpus: Sequence[Gpu], lost: Sequence[str], empty: Sequence[str], driver: str | None, cuda: str | None, source: str
) -> Machine:
    """Return a machine with `gpus`. `lost`, `empty`: sentences about GPUs that do not answer, or have no slices.

    Where no GPU is left and one is lost, the machine is broken: using the CPU instead would hide that.
    """
    notes = (*lost, *empty)
    broken = "; ".join(notes) if lost and not gpus else None
    lacks = None if gpus else "none of its GPUs can be used" if notes else "the driver reports no GPU"
    return Machine(tuple(gpus), driver, cuda, lacks=lacks, broken=broken, notes=notes, source=source)


def write_machine(machine: Machine) -> str:
    """Return the text of a file that `read_machine` reads."""
    document = asdict(machine)
    if machine.assigned is None:  # a field that older versions of orch refuse
        del document["assigned"]
    return json.dumps({"format": FORMAT, **document}, indent=2) + "\n"


def read_machine(path: Path) -> Machine:
    """Read a description of a machine, written by orch or by hand. Raises UsageError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}", why=str(error)) from error
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise UsageError(f"{path} does not describe a machine", why=f'it must say "format": "{FORMAT}"')
    try:
        return TypeAdapter(Machine).validate_python(document)
    except ValidationError as error:
        why = "\n".join(describe_errors(error, path.name, Machine)[:3])
        raise UsageError(f"{path} does not describe a machine", why=why) from None
