"""`--device`: what a user writes, and the GPUs it means on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.machine import Gpu

_PART = re.compile(r"(cuda:)?([0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z./-]+)")
THERE_IS = "there is cpu, cuda (any), a GPU's number (0), several (0,1), or a UUID (GPU-…, MIG-…)"


def kind(device: str) -> str:
    """ "cpu" or "cuda". Raises UsageError for what is no device at all."""
    if device in ("cpu", "cuda"):
        return device
    if all(_PART.fullmatch(part.strip()) for part in device.split(",")):
        return "cuda"
    raise UsageError(f"there is no device {device!r}", why=THERE_IS)


def named(device: str, present: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that `device` names one by one, in that order; none for "cpu" and "cuda", which name none.

    Raises UsageError for what is no device, MachineError for a GPU that is not there.
    """
    if kind(device) == "cpu" or device == "cuda":
        return ()
    found = [_one(part.strip().removeprefix("cuda:"), present) for part in device.split(",")]
    if len(set(found)) < len(found):
        raise UsageError(f"--device {device} names a GPU twice")
    return tuple(found)


def _one(name: str, present: Sequence[Gpu]) -> Gpu:
    if name.isdigit():
        matching = list(present[int(name) : int(name) + 1])
    else:
        matching = [gpu for gpu in present if gpu.uuid.lower().startswith(name.lower())]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{number} ({gpu.name}, {gpu.uuid})" for number, gpu in enumerate(present))
    what = f"there are {len(matching)} GPUs {name}…" if matching else f"there is no GPU {name}"
    raise MachineError(what, why=f"this machine has {listed or 'none'}", hint="orch doctor")
