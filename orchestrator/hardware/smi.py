"""Read GPUs with nvidia-smi, for machines where NVML's library cannot be loaded."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from orchestrator.hardware.machine import Gpu, Machine

_NO_DEVICES = 6  # nvidia-smi's exit code for a driver without a GPU
_QUERY = "index,uuid,name,memory.total,memory.free,compute_cap,driver_version"
_WSL = "/usr/lib/wsl/lib/nvidia-smi"


def read_smi() -> Machine | None:
    """Return the machine as nvidia-smi reports it; None where the command is missing."""
    command = shutil.which("nvidia-smi") or (_WSL if Path(_WSL).exists() else None)
    if command is None:
        return None
    try:
        answer = _run(command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits")
        if answer.returncode == _NO_DEVICES:
            return Machine(lacks="the driver reports no GPU", source="nvidia-smi")
        if answer.returncode != 0:
            why = (answer.stdout or answer.stderr).strip() or f"exit {answer.returncode}"
            return Machine(broken=f"nvidia-smi: {why}", source="nvidia-smi")
        listed, header = _run(command, "-L").stdout, _run(command).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Machine(broken=str(error), source="nvidia-smi")
    gpus = split_slices(parse_gpus(answer.stdout), listed)
    cuda = re.search(r"CUDA Version: *([0-9.]+)", header)
    driver = gpus[0].driver if gpus else None
    lacks = None if gpus else "the driver reports no GPU"
    return Machine(gpus, driver, cuda[1] if cuda else None, lacks=lacks, source="nvidia-smi")


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in nvidia-smi's CSV; other lines are skipped."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 7 and parts[0].isdigit():
            memory = int(parts[3]) if parts[3].isdigit() else 0
            free = int(parts[4]) if parts[4].isdigit() else None
            gpus.append(Gpu(int(parts[0]), parts[1], parts[2], memory, parts[5], parts[6], free))
    return tuple(gpus)


def split_slices(gpus: tuple[Gpu, ...], listed: str) -> tuple[Gpu, ...]:
    """Replace GPUs by the MIG slices that `nvidia-smi -L` lists; the profile's name gives the memory."""
    slices: dict[int, list[Gpu]] = {}
    by_index = {gpu.index: gpu for gpu in gpus}
    whole: Gpu | None = None
    for line in listed.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            whole = by_index.get(int(match[1]))
        match = re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)", line)
        if match and whole is not None:
            size = re.search(r"(\d+)gb", match[1])
            memory = int(size[1]) * 1024 if size else 0
            part = Gpu(whole.index, match[2], f"{whole.name} MIG {match[1]}", memory, whole.capability, whole.driver,
                       mig=match[1], parent=whole.uuid)  # fmt: skip
            slices.setdefault(whole.index, []).append(part)
    return tuple(one for gpu in gpus for one in slices.get(gpu.index, [gpu]))


def _run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=30, check=False)
