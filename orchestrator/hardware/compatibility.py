"""Whether a variant runs on a GPU: natively, compiled by the driver at the first start (JIT), or not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.catalog.spec import Variant
from orchestrator.hardware.machine import Gpu
from orchestrator.hardware.platforms import TEGRA

How = Literal["native", "unknown", "jit", "impossible"]
"""Best first. "unknown": nobody stated what the binaries have code for, so the probe in the worker decides."""


@dataclass(frozen=True)
class Fit:
    """How a variant runs on one GPU, and why so."""

    how: How
    why: str
    minutes: int | None = None
    """So long the driver compiles at the first start, where the stack states it."""

    @property
    def runs(self) -> bool:
        """Whether it may be tried at all."""
        return self.how != "impossible"


def fit(variant: Variant, gpu: Gpu, memory: int | None = None) -> Fit:
    """How a variant for GPUs runs on `gpu`; `memory`: MiB that the model needs, where known."""
    if gpu.capability in TEGRA:
        return Fit("impossible", f"{gpu.name} is a Jetson: it needs NVIDIA's own builds of the frameworks")
    if variant.min_driver is not None and gpu.driver and version(gpu.driver) < version(variant.min_driver):
        return Fit("impossible", f"it needs driver {variant.min_driver} or newer, this machine has {gpu.driver}")
    if memory is not None and 0 < gpu.memory < memory:
        return Fit("impossible", f"the model needs {memory} MiB of GPU memory, {gpu.name} has {gpu.memory}")
    if not version(gpu.capability):
        return Fit("unknown", f"the compute capability of {gpu.name} is not known")
    native, ptx = variant.native_capabilities, variant.ptx_capabilities
    if not (native or ptx):
        return Fit("unknown", "what its binaries have code for is not stated")
    if code := _newest(native, gpu.capability, same_major=True):
        return Fit("native", f"native code for {code}")
    if code := _newest(ptx, gpu.capability, same_major=False):
        minutes = variant.jit_minutes
        lasts = "" if minutes is None else f", about {minutes} minutes"
        return Fit("jit", f"compiled by the driver from PTX {code} at the first start{lasts}, then kept", minutes)
    has = f"native {', '.join(native) or 'none'}; PTX {', '.join(ptx) or 'none'}"
    return Fit(
        "impossible", f"its binaries have no code for {gpu.name} (compute capability {gpu.capability}), only {has}"
    )


def covers(variant: Variant, capability: str) -> bool:
    """Whether the variant's binaries run: native code within one major capability, PTX on anything newer."""
    native, ptx = variant.native_capabilities, variant.ptx_capabilities
    if not version(capability) or not (native or ptx):
        return True  # nothing is known: the probe in the container decides
    return bool(_newest(native, capability, same_major=True) or _newest(ptx, capability, same_major=False))


def _newest(codes: Sequence[str], capability: str, *, same_major: bool) -> str | None:
    """The newest of the codes that a GPU of that capability runs: older or equal, native within one major only."""
    wanted = version(capability)
    usable = [one for one in codes if version(one) <= wanted and (not same_major or version(one)[0] == wanted[0])]
    return max(usable, key=version, default=None)


def version(text: str) -> tuple[int, ...]:
    """A dotted version as numbers that compare."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
