"""Parse `--device`, and find the GPUs of this machine that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.machine import Gpu

_PART = re.compile(r"(cuda:)?([0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z./-]+)")
DEVICES = "a device is cpu, cuda (any GPU), a GPU's number (0), several (0,1), or a UUID (GPU-…, MIG-…)"


def device_kind(device: str) -> str:
    """Return "cpu" or "cuda". Raises UsageError for an unknown device."""
    if device in ("cpu", "cuda"):
        return device
    if all(_PART.fullmatch(part.strip()) for part in device.split(",")):
        return "cuda"
    raise UsageError(f"unknown device {device!r}", why=DEVICES)


def find_gpus(device: str, present: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs that `device` names one by one, in that order; none for "cpu" and "cuda".

    Raises UsageError for an unknown device, MachineError for a GPU that this machine does not have.
    """
    if device_kind(device) == "cpu" or device == "cuda":
        return ()
    gpus = [_find_gpu(part.strip().removeprefix("cuda:"), present) for part in device.split(",")]
    if len(set(gpus)) < len(gpus):
        raise UsageError(f"--device {device} names a GPU twice")
    return tuple(gpus)


def _find_gpu(name: str, present: Sequence[Gpu]) -> Gpu:
    if name.isdigit():
        matching = list(present[int(name) : int(name) + 1])
    else:
        matching = [gpu for gpu in present if gpu.uuid.lower().startswith(name.lower())]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{number} ({gpu.name}, {gpu.uuid})" for number, gpu in enumerate(present))
    what = f"there are {len(matching)} GPUs {name}…" if matching else f"there is no GPU {name}"
    raise MachineError(what, why=f"this machine has {listed or 'none'}", hint="orch doctor")
