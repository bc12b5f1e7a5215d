"""What this machine has, and which variant of a stack fits it: detection at the edge, pure values in the middle."""

from __future__ import annotations

from orchestrator.hardware.choose import Choice, choose_variant
from orchestrator.hardware.detect import cores, gpus, gpus_for, gpus_of, look
from orchestrator.hardware.fit import Fit, covers, fit
from orchestrator.hardware.machine import Gpu, Machine, Process, read_machine, write_machine

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
