"""CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES: which GPUs whoever started orch left it, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.hardware.machine import Gpu, Machine

CUDA, NVIDIA = "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"
_NONE = ("", "void", "none", "nodevfiles", "-1")


def visible(machine: Machine, environment: Mapping[str, str], *, in_container: bool = False) -> Machine:
    """The machine with the GPUs alone that the variables leave, in their order.

    In a container NVIDIA_VISIBLE_DEVICES was the engine's affair: what the driver lists there is what it gave.
    """
    for name in (NVIDIA, CUDA):
        value = environment.get(name)
        if value is None or not machine.gpus or (name == NVIDIA and (in_container or value == "all")):
            continue
        left = _left(machine.gpus, value)
        lacks = None if left else f"{name}={value!r} leaves none of the {len(machine.gpus)} GPUs"
        machine = replace(machine, gpus=left, lacks=lacks)
    return machine


def _left(present: Sequence[Gpu], value: str) -> tuple[Gpu, ...]:
    """Those named, up to the first name that nobody has: so CUDA reads it."""
    left: list[Gpu] = []
    if value.strip().lower() in _NONE:
        return ()
    for name in value.split(","):
        found = _named(present, name.strip())
        if not found:
            break
        left += [gpu for gpu in found if gpu not in left]
    return tuple(left)


def _named(present: Sequence[Gpu], name: str) -> list[Gpu]:
    """A GPU by index or by the beginning of its UUID, with all its slices; GPU:SLICE is one slice."""
    number, _, part = name.partition(":")
    if number.isdigit():
        found = [gpu for gpu in present if gpu.index == int(number)]
        if part:
            return found[int(part) : int(part) + 1] if part.isdigit() else []
        return found
    if not name.lower().startswith(("gpu-", "mig-")):
        return []
    return [
        gpu for gpu in present if any(one and one.lower().startswith(name.lower()) for one in (gpu.uuid, gpu.parent))
    ]
