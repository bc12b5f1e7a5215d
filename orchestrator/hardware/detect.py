"""Looking at this machine. GPUs are those nvidia-smi, part of the driver, lists."""

from __future__ import annotations

import os
import shutil
import subprocess

from orchestrator.catalog import StackEntry
from orchestrator.errors import MachineError
from orchestrator.hardware.machine import Gpu

_NO_DEVICES = 6
"""nvidia-smi's exit code for a driver without a GPU."""
_BROKEN_HINT = "repair the driver, or ask for the CPU: --device cpu"
_QUERY = "index,uuid,name,memory.total,compute_cap,driver_version"


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
