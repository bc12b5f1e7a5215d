"""Apply CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES: the GPUs that orch may use, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.hardware.machine import Gpu, Machine

CUDA, NVIDIA = "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"
_NONE = ("", "void", "none", "nodevfiles", "-1")


def keep_visible(machine: Machine, environment: Mapping[str, str], *, in_container: bool = False) -> Machine:
    """Return the machine with only the GPUs that the variables name, in their order.

    In a container the engine has applied NVIDIA_VISIBLE_DEVICES already: the driver lists only what it gave.
    """
    for name in (NVIDIA, CUDA):
        value = environment.get(name)
        if value is None or not machine.gpus or (name == NVIDIA and (in_container or value == "all")):
            continue
        visible = _select(machine.gpus, value)
        lacks = None if visible else f"{name}={value!r} leaves none of the {len(machine.gpus)} GPUs"
        machine = replace(machine, gpus=visible, lacks=lacks)
    return machine


def _select(present: Sequence[Gpu], value: str) -> tuple[Gpu, ...]:
    """Return the GPUs named, up to the first name that no GPU has, as CUDA does."""
    selected: list[Gpu] = []
    if value.strip().lower() in _NONE:
        return ()
    for name in value.split(","):
        matching = _match(present, name.strip())
        if not matching:
            break
        selected += [gpu for gpu in matching if gpu not in selected]
    return tuple(selected)


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
    return [
        gpu for gpu in present if any(one and one.lower().startswith(name.lower()) for one in (gpu.uuid, gpu.parent))
    ]
