"""Looking at this machine: NVML, else nvidia-smi, else what the container engine knows of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import MachineError
from orchestrator.hardware.machine import Gpu, Machine
from orchestrator.hardware.nvml import read_nvml
from orchestrator.hardware.platforms import in_container, jetson, platform_of
from orchestrator.hardware.smi import read_smi
from orchestrator.hardware.visible import visible

NO_DRIVER = "there is no NVIDIA driver: neither libnvidia-ml.so.1 nor nvidia-smi is here"


def look() -> Machine:
    """This machine, as far as GPUs go, with what the environment's variables leave of them. Raises nothing."""
    return visible(_whole(), os.environ, in_container=in_container())


def _whole() -> Machine:
    platform = platform_of()
    if platform == "jetson":
        return jetson()
    found = read_nvml() or read_smi()
    if found is not None:
        return replace(found, platform=platform)
    return replace(_by_engine(), platform=platform)


def _by_engine() -> Machine:
    """What the engine knows of, where the host has no driver: orch in a container of its own, an engine elsewhere."""
    from orchestrator.system.container_engine import connect

    try:
        info = connect().info
    except MachineError:
        return Machine(lacks=NO_DRIVER)
    return engine_machine(info)


def engine_machine(info: Mapping[str, Any]) -> Machine:
    """GPUs that an engine lists as CDI devices: their names alone are known. A pure function."""
    names = [str(one.get("ID", "")) for one in info.get("DiscoveredDevices") or [] if one.get("Source") == "cdi"]
    ids = [name.partition("=")[2] for name in names if name.startswith("nvidia.com/gpu=")]
    by_uuid = [one for one in ids if one.startswith(("GPU-", "MIG-"))]
    chosen = by_uuid or [one for one in ids if one.isdigit()]
    found = tuple(Gpu(number, name, "GPU of the engine's", 0, "", "") for number, name in enumerate(chosen))
    if found:
        return Machine(found, source="the container engine")
    also = ""
    if "nvidia" in (info.get("Runtimes") or {}):
        also = "; the engine has the runtime nvidia, but what GPUs it reaches cannot be seen from here"
    return Machine(lacks=NO_DRIVER + also)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where there is no driver.

    Raises MachineError where the driver is there and broken: going on with the CPU would hide it.
    """
    return look().usable()


def gpus_for(stack: StackEntry, device: str | None, variant: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs that matter for a run: none are looked for where none would be used.

    Raises MachineError where the driver is broken, or where a GPU was asked for and there is none.
    """
    return gpus_of(look(), stack, device, variant) if _looks(stack, device, variant) else ()


def gpus_of(machine: Machine, stack: StackEntry, device: str | None, variant: str | None) -> tuple[Gpu, ...]:
    """`gpus_for` on a given machine. A pure function."""
    if not _looks(stack, device, variant):
        return ()
    if device is None and variant is None:
        return machine.usable()
    on_cpu = any(one.device == "cpu" for one in stack.spec.variants.values())
    return machine.required("orch doctor" + ("; or ask for the CPU: --device cpu" if on_cpu else ""))


def _looks(stack: StackEntry, device: str | None, variant: str | None) -> bool:
    variants = stack.spec.variants
    concerned = variants.values() if variant is None else [variants[variant]] if variant in variants else []
    return device != "cpu" and any(one.device == "cuda" for one in concerned)


def cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
