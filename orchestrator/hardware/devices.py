"""Parse `--device`, and find the GPUs of this machine that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.machine import Gpu

_PART = re.compile(r"(cuda:)?([0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z./-]+)")
DEVICES = "a device is cpu, cuda (any GPU), nvidia-smi's number of a GPU (0), several (0,1), or a UUID (GPU-…, MIG-…)"


def device_kind(device: str) -> str:
    """Return "cpu" or "cuda". Raises UsageError for an unknown device."""
    if device in ("cpu", "cuda"):
        return device
    if all(_PART.fullmatch(part.strip()) for part in device.split(",")):
        return "cuda"
    raise UsageError(f"unknown device {device!r}", why=DEVICES)


def find_gpus(device: str, present: Sequence[Gpu], notes: Sequence[str] = ()) -> tuple[Gpu, ...]:
    """Return the GPUs that `device` names one by one, in that order; none for "cpu" and "cuda".

    Raises UsageError for an unknown device, MachineError for a GPU that this machine does not have. `notes`: sentences
    about GPUs that cannot be used, for that error.
    """
    if device_kind(device) == "cpu" or device == "cuda":
        return ()
    names = [part.strip().removeprefix("cuda:") for part in device.split(",")]
    gpus = [gpu for name in names for gpu in _find(name, present, notes)]
    if len(set(gpus)) < len(gpus):
        raise UsageError(f"--device {device} names a GPU twice")
    return tuple(gpus)


def _find(name: str, present: Sequence[Gpu], notes: Sequence[str]) -> list[Gpu]:
    """Return the GPU of that number, which is its slices in MIG mode, or the one whose UUID begins with `name`."""
    if name.isdigit():
        matching = [gpu for gpu in present if gpu.index == int(name)]
    else:
        matching = [gpu for gpu in present if gpu.uuid.lower().startswith(name.lower())]
    if matching and (name.isdigit() or len(matching) == 1):
        return matching
    listed = ", ".join(f"{gpu.label} ({gpu.name}, {gpu.uuid})" for gpu in present)
    what = f"there are {len(matching)} GPUs {name}…" if matching else f"there is no GPU {name}"
    why = "; ".join([f"this machine has {listed or 'none'}", *notes])
    raise MachineError(what, why=why, hint="orch doctor")
