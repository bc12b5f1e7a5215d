"""Which variant of a stack runs here, and on which GPUs: what was asked for, else the best fit, said plainly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.spec import Variant
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.compatibility import Fit, fit
from orchestrator.hardware.devices import kind, named
from orchestrator.hardware.machine import Gpu


@dataclass(frozen=True)
class Choice:
    """The variant chosen and why; `device` is "cpu" or "cuda"."""

    variant: str
    device: str
    why: str
    devices: tuple[str, ...] = ("cpu",)
    """The devices that the run may use, in order, as WorkerSpec.device names them: "cuda:GPU-…"."""


@dataclass(frozen=True)
class _Rated:
    """A variant for GPUs, and how it fits each of those in question."""

    name: str
    variant: Variant
    fits: tuple[tuple[Gpu, Fit], ...]

    def on(self, *how: str) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu, found in self.fits if found.how in how)

    @property
    def best(self) -> tuple[Gpu, ...]:
        """The GPUs that it runs on without JIT; those with JIT where there are no others."""
        return self.on("native", "unknown") or self.on("jit")

    @property
    def rank(self) -> tuple[int, int, int]:
        return len(self.on("native")), len(self.on("unknown")), len(self.on("jit"))

    def problem(self) -> str:
        """Why it is not taken."""
        if not self.fits:
            return f"{self.name}: this machine has no GPU"
        whys = dict.fromkeys(found.why for _, found in self.fits)
        return f"{self.name}: {'; '.join(whys)}"


def choose_variant(
    stack: StackEntry, wanted: str | None, device: str | None, present: Sequence[Gpu], memory: int | None = None
) -> Choice:
    """The variant to run: the one asked for, else the best for the GPUs that are here, else the CPU's, said plainly.

    Native code comes before JIT, then the order of stack.yaml decides. `memory`: MiB of GPU memory that the model
    needs. Raises UsageError for a name that the stack does not have, MachineError where nothing fits.
    """
    variants = stack.spec.variants
    asked = None if device is None else kind(device)
    if wanted is not None:
        if wanted not in variants:
            raise UsageError(f"{stack.name} has no variant {wanted!r}", why=f"it has {', '.join(variants)}")
        if asked is not None and asked != variants[wanted].device:
            raise UsageError(f"the variant {wanted} is for {variants[wanted].device}, not for --device {device}")
        if variants[wanted].device == "cpu":
            return Choice(wanted, "cpu", "asked for")
    elif asked == "cpu" or not (asked or present):
        return _on_cpu(stack, f"--device {device}" if asked else _why_no_gpu(stack))
    each = () if device is None else named(device, present)
    rated = [
        _Rated(name, variant, tuple((gpu, fit(variant, gpu, memory)) for gpu in each or present))
        for name, variant in variants.items()
        if variant.device == "cuda" and wanted in (None, name)
    ]
    if wanted is not None:
        return _asked_for(rated[0], bool(each))
    return _best(stack, rated, device, bool(each))


def _asked_for(rated: _Rated, each: bool) -> Choice:
    if not rated.fits:
        why = "this machine has none"
        raise MachineError(f"the variant {rated.name} needs a GPU", why=why, hint="orch doctor")
    if not _usable(rated, each):
        why = rated.problem().removeprefix(f"{rated.name}: ")
        raise MachineError(f"the variant {rated.name} does not fit this machine", why=why, hint="orch doctor")
    return _on_gpus(rated, each, "asked for")


def _best(stack: StackEntry, rated: Sequence[_Rated], device: str | None, each: bool) -> Choice:
    usable = [one for one in rated if not one.variant.on_request and _usable(one, each)]
    if usable:
        taken = max(usable, key=lambda one: one.rank)  # the first of equals
        first = taken.best[0]
        why = f"--device {device}" if device else f"fits {first.name}, compute capability {first.capability}"
        return _on_gpus(taken, each, "; ".join([why, *_passed_over(rated[: rated.index(taken)])]))
    problems = "; ".join(_passed_over(rated))
    if device is None and any(variant.device == "cpu" for variant in stack.spec.variants.values()):
        return _on_cpu(stack, f"no variant fits the GPU: {problems}" if rated else _why_no_gpu(stack))
    raise _nothing_fits(stack, problems)


def _usable(rated: _Rated, each: bool) -> bool:
    """Whether it runs where it has to: on each GPU that was named, else on any."""
    runs = [found.runs for _, found in rated.fits]
    return bool(runs) and (all(runs) if each else any(runs))


def _passed_over(rated: Sequence[_Rated]) -> Iterator[str]:
    for one in rated:
        on_request = f"{one.name}: taken on request alone: --variant {one.name}"
        yield on_request if one.variant.on_request else one.problem()


def _on_gpus(rated: _Rated, each: bool, why: str) -> Choice:
    taken = tuple(gpu for gpu, _ in rated.fits) if each else rated.best
    jit = [found.why for gpu, found in rated.fits if gpu in taken and found.how == "jit"]
    left = [f"{gpu.name} is left out: {found.why}" for gpu, found in rated.fits if gpu not in taken]
    why = "; ".join(dict.fromkeys([why, *jit, *left]))
    return Choice(rated.name, "cuda", why, tuple(gpu.device for gpu in taken))


def _on_cpu(stack: StackEntry, why: str) -> Choice:
    variants = stack.spec.variants.items()
    for name, variant in variants:
        if variant.device == "cpu" and not variant.on_request:
            return Choice(name, "cpu", why)
    asked_for = [name for name, variant in variants if variant.device == "cpu"]
    raise _nothing_fits(stack, "; ".join(f"{name}: taken on request alone: --variant {name}" for name in asked_for))


def _why_no_gpu(stack: StackEntry) -> str:
    uses_gpus = any(variant.device == "cuda" for variant in stack.spec.variants.values())
    return "no GPU on this machine" if uses_gpus else "this stack uses no GPU"


def _nothing_fits(stack: StackEntry, problems: str) -> MachineError:
    variants = stack.spec.variants
    why = problems or f"it has only {', '.join(f'{name} ({variant.device})' for name, variant in variants.items())}"
    hint = "ask for the CPU: --device cpu" if any(one.device == "cpu" for one in variants.values()) else None
    return MachineError(f"no variant of {stack.name} fits this machine", why=why, hint=hint)
