"""What this machine has, and which variant of a stack fits it: detection at the edge, pure values in the middle."""

from __future__ import annotations

from orchestrator.hardware.choose import Choice, choose_variant
from orchestrator.hardware.detect import cores, gpus, gpus_for
from orchestrator.hardware.fit import covers
from orchestrator.hardware.machine import Gpu, Machine

__all__ = ["Choice", "Gpu", "Machine", "choose_variant", "cores", "covers", "gpus", "gpus_for"]
