"""The machine and its GPUs, and which variant of a stack fits them."""

from __future__ import annotations

from orchestrator.hardware.compatibility import Compatibility, check_compatibility
from orchestrator.hardware.detection import cores, detect_machine, gpus_for, gpus_of
from orchestrator.hardware.machine import Gpu, GpuProcess, Machine, read_machine, write_machine
from orchestrator.hardware.selection import Selection, choose_variant

__all__ = [
    "Compatibility",
    "Gpu",
    "GpuProcess",
    "Machine",
    "Selection",
    "check_compatibility",
    "choose_variant",
    "cores",
    "detect_machine",
    "gpus_for",
    "gpus_of",
    "read_machine",
    "write_machine",
]
