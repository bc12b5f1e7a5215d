"""Detect this machine's GPUs and cores, by NVML, else nvidia-smi, else the container engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.catalog import StackEntry
from orchestrator.errors import MachineError
from orchestrator.hardware.devices import find_gpus
from orchestrator.hardware.machine import OR_CPU, Gpu, Machine
from orchestrator.hardware.nvml import read_nvml
from orchestrator.hardware.platforms import is_in_container, read_jetson, read_platform
from orchestrator.hardware.smi import read_smi
from orchestrator.hardware.visible import keep_visible
from orchestrator.system import connect

NO_DRIVER = "no NVIDIA driver: neither libnvidia-ml.so.1 nor nvidia-smi is installed"


def detect_machine() -> Machine:
    """Return this machine with the GPUs that the environment's variables leave visible. Raises nothing."""
    platform = read_platform()
    machine = read_jetson() if platform == "jetson" else read_nvml() or read_smi() or _read_engine()
    return keep_visible(replace(machine, platform=platform), os.environ, in_container=is_in_container())


def _read_engine() -> Machine:
    """Return the GPUs that the engine lists, for hosts without a driver (orch in a container)."""
    try:
        info = connect().info
    except MachineError:
        return Machine(lacks=NO_DRIVER)
    return engine_machine(info)


def engine_machine(info: Mapping[str, Any]) -> Machine:
    """Return the GPUs that an engine lists as CDI devices; only their names are known. A pure function."""
    listed = [str(one.get("ID", "")) for one in info.get("DiscoveredDevices") or [] if one.get("Source") == "cdi"]
    ids = [name.partition("=")[2] for name in listed if name.startswith("nvidia.com/gpu=")]
    by_uuid = [one for one in ids if one.startswith(("GPU-", "MIG-"))]
    names = by_uuid or [one for one in ids if one.isdigit()]
    numbers = range(len(names)) if by_uuid else map(int, names)
    gpus = tuple(
        Gpu(number, name, "GPU of the container engine", 0, "", "") for number, name in zip(numbers, names, strict=True)
    )
    if gpus:
        return Machine(gpus, source="the container engine")
    also = ""
    if "nvidia" in (info.get("Runtimes") or {}):
        also = "; the engine has the runtime nvidia, but it does not list the GPUs that it reaches"
    return Machine(lacks=NO_DRIVER + also)


def gpus_for(stack: StackEntry, device: str | None, variant: str | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs of this machine that a run may use; it is not examined where that is none.

    Raises MachineError where the driver is broken, or where a GPU was asked for and cannot be used.
    """
    return gpus_of(detect_machine(), stack, device, variant) if _may_use_gpus(stack, device, variant) else ()


def gpus_of(machine: Machine, stack: StackEntry, device: str | None, variant: str | None) -> tuple[Gpu, ...]:
    """Return the same for a given machine. A pure function."""
    if not _may_use_gpus(stack, device, variant):
        return ()
    if device is None and variant is None:
        return machine.usable_gpus()
    on_cpu = any(one.device == "cpu" for one in stack.spec.variants.values())
    present = machine.require_gpus("orch doctor" + (f"; {OR_CPU}" if on_cpu else ""))
    if device is not None:
        find_gpus(device, present, machine.notes)  # here, as nobody else knows of the GPUs that are lost
    return present


def _may_use_gpus(stack: StackEntry, device: str | None, variant: str | None) -> bool:
    variants = stack.spec.variants
    candidates = variants.values() if variant is None else [variants[variant]] if variant in variants else []
    return device != "cpu" and any(one.device == "cuda" for one in candidates)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
