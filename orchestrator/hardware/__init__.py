"""What this machine has, and which variant of a stack fits it: detection at the edge, pure values in the middle."""

from __future__ import annotations

from orchestrator.hardware.compatibility import Fit, covers, fit
from orchestrator.hardware.detection import cores, gpus, gpus_for, gpus_of, look
from orchestrator.hardware.machine import Gpu, Machine, Process, read_machine, write_machine
from orchestrator.hardware.selection import Choice, choose_variant

__all__ = [
    "Choice",
    "Fit",
    "Gpu",
    "Machine",
    "Process",
    "choose_variant",
    "cores",
    "covers",
    "fit",
    "gpus",
    "gpus_for",
    "gpus_of",
    "look",
    "read_machine",
    "write_machine",
]
