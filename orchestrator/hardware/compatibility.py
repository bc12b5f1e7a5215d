"""How a variant runs on a GPU: native code, compiled by the driver at first (JIT), or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.catalog import Variant
from orchestrator.hardware.machine import Gpu
from orchestrator.hardware.platforms import TEGRA

How = Literal["native", "unknown", "jit", "impossible"]
"""Best first. "unknown": nothing states what the binaries have code for; the probe in the worker decides."""


@dataclass(frozen=True)
class Compatibility:
    """How a variant runs on one GPU, and the reason."""

    how: How
    why: str
    minutes: int | None = None  # minutes that the driver compiles at the first start, where the stack states them
    needs_driver: str | None = None  # the oldest driver that would make it possible, where only the driver is too old

    @property
    def is_possible(self) -> bool:
        return self.how != "impossible"


def check_compatibility(variant: Variant, gpu: Gpu, memory: int | None = None) -> Compatibility:
    """Return how a variant for GPUs runs on `gpu`. `memory`: MiB that the model needs, where known."""
    if gpu.capability in TEGRA:
        return Compatibility("impossible", f"{gpu.name} is a Jetson: it needs NVIDIA's own builds of the frameworks")
    apart_from_driver = _check_memory(gpu, memory) or _check_code(variant, gpu)
    if variant.min_driver is not None and gpu.driver and parse_version(gpu.driver) < parse_version(variant.min_driver):
        why = f"it needs driver {variant.min_driver} or newer, this machine has {gpu.driver}"
        return Compatibility(
            "impossible", why, needs_driver=variant.min_driver if apart_from_driver.is_possible else None
        )
    return apart_from_driver


def _check_memory(gpu: Gpu, memory: int | None) -> Compatibility | None:
    if memory is None or not 0 < gpu.memory < memory:
        return None
    return Compatibility("impossible", f"the model needs {memory} MiB of GPU memory, {gpu.name} has {gpu.memory}")


def _check_code(variant: Variant, gpu: Gpu) -> Compatibility:
    """Compare the code in the variant's binaries with the GPU's compute capability."""
    if not parse_version(gpu.capability):
        return Compatibility("unknown", f"the compute capability of {gpu.name} is not known")
    native, ptx = variant.native_capabilities, variant.ptx_capabilities
    if not (native or ptx):
        return Compatibility("unknown", "what its binaries have code for is not stated")
    if code := _newest_usable(native, gpu.capability, same_major=True):
        return Compatibility("native", f"native code for {code}")
    if code := _newest_usable(ptx, gpu.capability, same_major=False):
        minutes = variant.jit_minutes
        duration = "" if minutes is None else f", about {minutes} minutes"
        why = f"compiled by the driver from PTX {code} at the first start{duration}, then kept"
        return Compatibility("jit", why, minutes)
    has = f"native {', '.join(native) or 'none'}; PTX {', '.join(ptx) or 'none'}"
    why = f"its binaries have no code for {gpu.name} (compute capability {gpu.capability}), only {has}"
    return Compatibility("impossible", why)


def _newest_usable(codes: Sequence[str], capability: str, *, same_major: bool) -> str | None:
    """Return the newest code that a GPU of `capability` runs; native code within one major only."""
    gpu = parse_version(capability)
    versions = {code: parse_version(code) for code in codes}
    usable = [code for code, version in versions.items() if version <= gpu and (not same_major or version[0] == gpu[0])]
    return max(usable, key=parse_version, default=None)


def parse_version(text: str) -> tuple[int, ...]:
    """Return a dotted version as numbers that compare; parts that are no numbers are skipped."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
