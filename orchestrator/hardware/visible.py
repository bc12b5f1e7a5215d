"""Apply CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES: the GPUs that orch may use, and their order.

A GPU that a variable names was asked for, by a scheduler or by hand: where it cannot be used, nothing else is used
in its place. CUDA itself would skip it and all names after it, and go on with fewer GPUs or with none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.hardware.machine import Gpu, Machine

CUDA, NVIDIA = "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"
_NONE = ("", "void", "none", "nodevfiles")
_END = "-1"
"""No GPU on purpose, alone or as the end of a list."""


def keep_visible(machine: Machine, environment: Mapping[str, str], *, in_container: bool = False) -> Machine:
    """Return the machine with only the GPUs that the variables name, in their order.

    In a container the engine has applied NVIDIA_VISIBLE_DEVICES already: the driver lists only what it gave, unless
    it gave nothing.
    """
    for name in (NVIDIA, CUDA):
        value = environment.get(name)
        applied = name == NVIDIA and (value == "all" or (in_container and machine.gpus))
        if value is None or applied or machine.broken is not None or machine.assigned is not None:
            continue
        machine = _keep_named(machine, name, value)
    return machine


def _keep_named(machine: Machine, variable: str, value: str) -> Machine:
    present = machine.gpus
    selected: list[Gpu] = []
    for name in _names(value):
        matching = _match(present, name)
        if not matching:
            return replace(machine, gpus=(), lacks=_explain_missing(machine, name), assigned=f"{variable}={value}")
        selected += [gpu for gpu in matching if gpu not in selected]
    lacks = machine.lacks if selected or not present else f"{variable}={value!r} leaves none of the {len(present)} GPUs"
    return replace(machine, gpus=tuple(selected), lacks=lacks)


def _names(value: str) -> Iterator[str]:
    """Yield the names in a variable's value; none where it asks for no GPU."""
    if value.strip().lower() in _NONE:
        return
    for name in value.split(","):
        if name.strip() == _END:
            return
        yield name.strip()


def _explain_missing(machine: Machine, name: str) -> str:
    usable = ", ".join(f"{gpu.label} ({gpu.uuid})" for gpu in machine.gpus) or machine.lacks or "none"
    return "; ".join([f"no GPU {name} can be used here; GPUs that can: {usable}", *machine.notes])


def _match(present: Sequence[Gpu], name: str) -> list[Gpu]:
    """Return the GPU of that index or beginning of a UUID, with all its slices; GPU:SLICE is one slice."""
    number, _, part = name.partition(":")
    if number.isdigit():
        slices = [gpu for gpu in present if gpu.index == int(number)]
        if part:
            return slices[int(part) : int(part) + 1] if part.isdigit() else []
        return slices
    if not name.lower().startswith(("gpu-", "mig-")):
        return []
    matching = [
        gpu for gpu in present if any(one and one.lower().startswith(name.lower()) for one in (gpu.uuid, gpu.parent))
    ]
    return matching if len({gpu.index for gpu in matching}) == 1 else []
