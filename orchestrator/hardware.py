"""What this machine has, and which variant of a stack fits it. GPUs are those nvidia-smi, part of the driver, lists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.catalog import StackEntry
from orchestrator.errors import MachineError, UsageError
from orchestrator.spec import Variant

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
_NO_DEVICES = 6
"""nvidia-smi's exit code for a driver without a GPU."""
_BROKEN_HINT = "repair the driver, or ask for the CPU: --device cpu"
_QUERY = "index,uuid,name,memory.total,compute_cap,driver_version"


@dataclass(frozen=True)
class Gpu:
    """One GPU: memory in MiB, compute capability as "8.6"."""

    index: int
    uuid: str
    name: str
    memory: int
    capability: str
    driver: str


def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where there is no driver.

    Raises MachineError where the driver is there and broken: going on with the CPU would hide it.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError("the GPU driver does not answer", why=str(error), hint=_BROKEN_HINT) from error
    if answer.returncode == 0:
        return parse_gpus(answer.stdout)
    if answer.returncode == _NO_DEVICES:
        return ()
    why = (answer.stdout or answer.stderr).strip() or f"exit {answer.returncode}"
    raise MachineError("the GPU driver does not answer", why=f"nvidia-smi: {why}", hint=_BROKEN_HINT)


def gpus_for(stack: StackEntry, device: str | None) -> tuple[Gpu, ...]:
    """The GPUs that matter for a run: none are looked for where none would be used. Raises MachineError."""
    used = device != "cpu" and any(variant.device == "cuda" for variant in stack.spec.variants.values())
    return gpus() if used else ()


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's CSV; lines that are none are left out."""
    found: list[Gpu] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 6 and parts[0].isdigit():
            memory = int(parts[3]) if parts[3].isdigit() else 0
            found.append(Gpu(int(parts[0]), parts[1], parts[2], memory, parts[4], parts[5]))
    return tuple(found)


def cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Choice:
    """The variant chosen and why."""

    variant: str
    device: str
    why: str


def choose_variant(stack: StackEntry, wanted: str | None, device: str | None, present: Sequence[Gpu]) -> Choice:
    """The variant to run: the one asked for, else one for a GPU that is here, else the CPU's, said plainly.

    Raises UsageError for a name the stack does not have, MachineError where nothing fits.
    """
    variants = stack.spec.variants
    if device is not None and not _DEVICE.fullmatch(device):
        raise UsageError(f"there is no device {device!r}", why="there is cpu, cuda, and cuda:1 for the second GPU")
    if wanted is not None:
        if wanted not in variants:
            raise UsageError(f"{stack.name} has no variant {wanted!r}", why=f"it has {', '.join(variants)}")
        if device is not None and _kind(device) != variants[wanted].device:
            raise UsageError(f"the variant {wanted} is for {variants[wanted].device}, not for --device {device}")
        return _checked(wanted, variants[wanted], device, present, "asked for")
    kinds = [_kind(device)] if device is not None else (["cuda", "cpu"] if present else ["cpu"])
    problems: list[str] = []
    for kind in kinds:
        for name, variant in variants.items():
            if variant.device != kind:
                continue
            if variant.on_request:
                problems.append(f"{name}: taken on request alone: --variant {name}")
                continue
            try:
                return _checked(name, variant, device, present, _reason(stack, kind, device, present, problems))
            except MachineError as error:
                problems.append(f"{name}: {error.why}")
    if not problems:
        problems.append(f"it has only {', '.join(f'{name} ({variant.device})' for name, variant in variants.items())}")
    hint = "ask for the CPU: --device cpu" if any(one.device == "cpu" for one in variants.values()) else None
    raise MachineError(f"no variant of {stack.name} fits this machine", why="; ".join(problems), hint=hint)


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "cuda"


def _reason(stack: StackEntry, kind: str, device: str | None, present: Sequence[Gpu], problems: Sequence[str]) -> str:
    passed_over = f"; {'; '.join(problems)}" if problems and kind == "cuda" else ""
    if device is not None:
        return f"--device {device}{passed_over}"
    if kind == "cuda":
        return f"fits {present[0].name}, compute capability {present[0].capability}{passed_over}"
    if problems:
        return f"no variant fits the GPU: {'; '.join(problems)}"
    uses_gpus = any(variant.device == "cuda" for variant in stack.spec.variants.values())
    return "no GPU on this machine" if uses_gpus else "this stack uses no GPU"


def _checked(name: str, variant: Variant, device: str | None, present: Sequence[Gpu], why: str) -> Choice:
    if variant.device == "cpu":
        return Choice(name, "cpu", why)
    number = int((device or "cuda").partition(":")[2] or 0)
    if number >= len(present):
        there = f"{len(present)} of them" if present else "none (nvidia-smi finds no GPU)"
        raise MachineError(f"the variant {name} needs a GPU", why=f"this machine has {there}", hint="orch doctor")
    gpu = present[number]
    if variant.min_driver is not None and _version(gpu.driver) < _version(variant.min_driver):
        why_not = f"it needs driver {variant.min_driver} or newer, this machine has {gpu.driver}"
        raise MachineError(f"the variant {name} does not fit this machine", why=why_not)
    if not covers(variant, gpu.capability):
        why_not = f"its binaries have no code for {gpu.name} (compute capability {gpu.capability})"
        raise MachineError(f"the variant {name} does not fit this machine", why=why_not)
    return Choice(name, device or "cuda", why)


def covers(variant: Variant, capability: str) -> bool:
    """Whether the variant's binaries run: native code within one major capability, PTX on anything newer."""
    wanted = _version(capability)
    native = [_version(one) for one in variant.native_capabilities]
    ptx = [_version(one) for one in variant.ptx_capabilities]
    if not wanted or not (native or ptx):
        return True  # nothing is known: the probe in the container decides
    return any(one[0] == wanted[0] and one <= wanted for one in native) or any(one <= wanted for one in ptx)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
