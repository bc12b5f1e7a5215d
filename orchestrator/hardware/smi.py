"""Read GPUs with nvidia-smi, for machines where NVML's library cannot be loaded.

Drivers answer in many ways; tests/unit/hardware/test_smi_answers.py lists those that were seen. Fields are parsed by
type: text in brackets, or ERR!, is never a value.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from orchestrator.hardware.machine import Gpu, Machine, describe_lost, describe_unsliced, summarize

TIMEOUT = 30.0
_WSL = "/usr/lib/wsl/lib/nvidia-smi"
_FIELDS: tuple[str, ...] = (
    "index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version", "pstate",
    "temperature.gpu", "mig.mode.current",
)  # fmt: skip
"""A GPU that requires a reset may say so in the state or the temperature alone."""
_SHORTEST = 3
"""Columns of a row that says which GPU it is about."""
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field to query')
_NO_GPU = re.compile(r"no devices were found|no supported gpus were found", re.IGNORECASE)
_NO_HANDLE = re.compile(r"Unable to determine the device handle for gpu *([^ ]+): *(.+)", re.IGNORECASE)
_TYPES = {
    "index": r"\d+",
    "uuid": r"(GPU|MIG)-[0-9A-Za-z./-]+",
    "name": r"(?!ERR!)[^\[\]]+",
    "memory.total": r"\d+",
    "memory.free": r"\d+",
    "compute_cap": r"\d+\.\d+",
    "driver_version": r"\d+(\.\d+)+",
    "mig.mode.current": r"Enabled|Disabled",
}
_IDENTITY = ("index", "uuid", "name", "compute_cap")
_GONE = re.compile(r"gpu is lost|gpu requires reset", re.IGNORECASE)
_UNSUPPORTED = re.compile(r"n/a|not supported|not available|insufficient permissions", re.IGNORECASE)


def read_smi() -> Machine | None:
    """Return the machine as nvidia-smi reports it; None where the command is missing."""
    command = shutil.which("nvidia-smi") or (_WSL if Path(_WSL).exists() else None)
    if command is None:
        return None
    try:
        answer, fields = _query(command)
        rows = parse_rows(answer.stdout, fields)
        if not rows:
            return _without_rows(answer)
        listed, header = _run(command, "-L").stdout, _run(command).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Machine(broken=f"nvidia-smi: {error}", source="nvidia-smi")
    return _machine(rows, listed, header)


def _query(command: str) -> tuple[subprocess.CompletedProcess[str], tuple[str, ...]]:
    """Return the answer about all GPUs, and the fields in it: older drivers do not know all of them."""
    fields = _FIELDS
    while True:
        answer = _run(command, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        unknown = _UNKNOWN_FIELD.findall(answer.stdout + answer.stderr)
        left = tuple(field for field in fields if field not in unknown)
        if left == fields or not left:
            return answer, fields
        fields = left


def _without_rows(answer: subprocess.CompletedProcess[str]) -> Machine:
    """Return the machine where the answer has no line about a GPU."""
    said = "; ".join(line.strip() for line in (answer.stdout + answer.stderr).splitlines() if line.strip())
    if _NO_GPU.search(said) or (answer.returncode == 0 and not said):
        return Machine(lacks="the driver reports no GPU", source="nvidia-smi")
    return Machine(broken=f"nvidia-smi: {said or f'exit {answer.returncode}'}", source="nvidia-smi")


def _machine(rows: list[dict[str, str]], listed: str, header: str) -> Machine:
    """Return the machine of rows. The exit code says nothing more: one GPU that warns or is lost makes it an error."""
    gpus: list[Gpu] = []
    lost: list[str] = []
    empty: list[str] = []
    for row in rows:
        if "lost" in row:
            lost.append(describe_lost(row["index"], row["lost"]))
            continue
        devices = split_slices((_gpu(row),), listed)
        if row.get("mig.mode.current") == "Enabled" and devices[0].parent is None:
            empty.append(describe_unsliced(int(row["index"])))
            continue
        gpus += devices
    driver = next((row["driver_version"] for row in rows if row.get("driver_version")), None)
    cuda = re.search(r"CUDA (?:UMD )?Version: *([0-9.]+)", header)
    return summarize(gpus, lost, empty, driver, cuda[1] if cuda else None, "nvidia-smi")


def parse_rows(text: str, fields: tuple[str, ...] = _FIELDS) -> list[dict[str, str]]:
    """Return the rows of nvidia-smi's CSV: for each GPU its fields with a value, and, where it is lost, why.

    A GPU without a handle is a message with its bus id, then a row of errors that has no number either: its number
    follows from the row before.
    """
    rows: list[dict[str, str]] = []
    message: dict[str, str] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if match := _NO_HANDLE.search(line):
            rows += [message] if message else []
            message = {"index": f"at {match[1]}", "lost": match[2].strip()}
        elif len(parts) >= _SHORTEST and (parts[0].isdigit() or _is_error(parts[0])):
            row = _parse_row(dict(zip(fields, parts, strict=False)))
            if "index" not in row:
                numbers = [int(one["index"]) for one in rows if one["index"].isdigit()]
                row = {"index": str(numbers[-1] + 1 if numbers else 0), "lost": message.get("lost", row["lost"])}
            elif message:
                rows.append(message)
            message = {}
            rows.append(row)
    return [*rows, message] if message else rows


def _parse_row(row: Mapping[str, str]) -> dict[str, str]:
    values = {field: row[field] for field, form in _TYPES.items() if re.fullmatch(form, row.get(field, ""))}
    gone = [value for value in row.values() if _is_error(value) and _GONE.search(value)]
    failed = [row[field] for field in _IDENTITY if _is_error(row.get(field, ""))]
    reason = next(iter(gone + failed), None)
    return values if reason is None else {**values, "lost": reason.strip("[]")}


def _is_error(value: str) -> bool:
    """Return whether a field holds an error of the driver instead of a value or "not available"."""
    if value == "ERR!":
        return True
    return value.startswith("[") and _UNSUPPORTED.fullmatch(value.strip("[]")) is None


def _gpu(row: Mapping[str, str]) -> Gpu:
    return Gpu(
        int(row["index"]),
        row.get("uuid", row["index"]),
        row.get("name", "NVIDIA GPU"),
        int(row.get("memory.total", 0)),
        row.get("compute_cap", ""),
        row.get("driver_version", ""),
        int(row["memory.free"]) if "memory.free" in row else None,
    )


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
    return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False)
