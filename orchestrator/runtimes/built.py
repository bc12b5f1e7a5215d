"""Stacks with the GPU code read in their built variants, and the selection of a variant by it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from orchestrator.catalog import StackEntry
from orchestrator.errors import OrchError
from orchestrator.hardware import Gpu, GpuCode, Selection, choose_variant, gpus_for
from orchestrator.runtimes.base import BuildOptions, Runtime
from orchestrator.runtimes.registry import usable_runtimes


def select_variant(
    stack: StackEntry,
    variant: str | None,
    device: str | None,
    gpus: Sequence[Gpu] | None = None,
    memory: int | None = None,
) -> Selection:
    """Return the variant to run, by what is known of the built variants and declared for the others.

    `gpus`: those to run on; None: those of this machine. `memory`: MiB of GPU memory that the model needs. Raises
    UsageError for unknown names, MachineError where nothing fits.
    """
    present = gpus_for(stack, device, variant) if gpus is None else gpus
    return choose_variant(apply_gpu_code(stack) if present else stack, variant, device, present, memory)


def apply_gpu_code(stack: StackEntry) -> StackEntry:
    """Return the stack with what was read in its variants for GPUs that are built here, else as declared."""
    variants = stack.spec.variants
    for_gpus = [name for name, variant in variants.items() if variant.device == "cuda"]
    runtimes = usable_runtimes() if for_gpus else []
    codes = {name: _read_gpu_code(stack, name, runtimes) for name in for_gpus}
    read = {name: code.apply(variants[name]) for name, code in codes.items() if code is not None}
    if not read:
        return stack
    return replace(stack, spec=stack.spec.model_copy(update={"variants": {**variants, **read}}))


def _read_gpu_code(stack: StackEntry, variant: str, runtimes: Sequence[Runtime]) -> GpuCode | None:
    """Return the variant's GPU code from the first runtime that has built it; None where none has."""
    for runtime in runtimes:
        with suppress(OrchError, OSError):  # a build argument that only its user knows
            code = runtime.locate(stack, variant, BuildOptions()).gpu_code
            if code is not None:
                return code
    return None
