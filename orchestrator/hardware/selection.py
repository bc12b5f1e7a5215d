"""Select the variant of a stack and its GPUs: what was asked for, else what fits best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.catalog import StackEntry, Variant
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware.compatibility import Compatibility, check_compatibility, parse_version
from orchestrator.hardware.devices import device_kind, find_gpus
from orchestrator.hardware.machine import Gpu


@dataclass(frozen=True)
class Selection:
    """The variant selected and why; `device` is "cpu" or "cuda"."""

    variant: str
    device: str
    why: str
    devices: tuple[str, ...] = ("cpu",)
    """The devices that the run may use, in order, as WorkerSpec.device names them: "cuda:GPU-…"."""


@dataclass(frozen=True)
class _Candidate:
    """A variant for GPUs, and its compatibility with each GPU considered."""

    name: str
    variant: Variant
    compatibilities: tuple[tuple[Gpu, Compatibility], ...]

    def gpus_with(self, *how: str) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu, compatibility in self.compatibilities if compatibility.how in how)

    @property
    def best_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that need no JIT; those that need it where there are no others."""
        return self.gpus_with("native", "unknown") or self.gpus_with("jit")

    @property
    def rank(self) -> tuple[int, int, int]:
        return len(self.gpus_with("native")), len(self.gpus_with("unknown")), len(self.gpus_with("jit"))

    def is_usable(self, on_all: bool) -> bool:
        """Whether it runs on every GPU considered, or, without `on_all`, on any of them."""
        possible = [compatibility.is_possible for _, compatibility in self.compatibilities]
        return bool(possible) and (all(possible) if on_all else any(possible))

    @property
    def needs_driver(self) -> str | None:
        """The driver that the variant needs, where only that keeps it from running."""
        return next((one.needs_driver for _, one in self.compatibilities if one.needs_driver), None)

    def reasons(self) -> str:
        return "; ".join(dict.fromkeys(compatibility.why for _, compatibility in self.compatibilities))


def choose_variant(
    stack: StackEntry, wanted: str | None, device: str | None, present: Sequence[Gpu], memory: int | None = None
) -> Selection:
    """Return the variant asked for, else the best one for the GPUs `present`, else the one for the CPU.

    Native code comes before JIT; among equals the order of stack.yaml decides. `memory`: MiB of GPU memory that the
    model needs. Raises UsageError for a name that the stack does not have, MachineError where nothing fits.
    """
    variants = stack.spec.variants
    kind = None if device is None else device_kind(device)
    if wanted is not None:
        if wanted not in variants:
            raise UsageError(f"{stack.name} has no variant {wanted!r}", why=f"it has {', '.join(variants)}")
        if kind is not None and kind != variants[wanted].device:
            raise UsageError(f"the variant {wanted} is for {variants[wanted].device}, not for --device {device}")
        if variants[wanted].device == "cpu":
            return Selection(wanted, "cpu", "asked for")
    elif kind == "cpu" or not (kind or present):
        return _select_cpu(stack, f"--device {device}" if kind else _why_no_gpu(stack))
    named = () if device is None else find_gpus(device, present)
    candidates = _candidates(stack, named or present, memory)
    if wanted is not None:
        return _select_wanted(wanted, candidates, on_all=bool(named))
    return _select_best(stack, candidates, device, on_all=bool(named))


def explain_old_driver(stack: StackEntry, present: Sequence[Gpu]) -> tuple[str, str] | None:
    """Return what the driver is too old for, and the next step; None where a variant of the stack runs by itself."""
    candidates = _candidates(stack, present, None)
    needs = [f"{one.name} needs {one.needs_driver} or newer" for one in candidates if one.needs_driver]
    if not needs or any(one.is_usable(False) and not one.variant.on_request for one in candidates):
        return None
    return ", ".join(needs), _next_step(candidates, on_all=False) or ""


def _candidates(stack: StackEntry, gpus: Sequence[Gpu], memory: int | None) -> list[_Candidate]:
    return [
        _Candidate(name, variant, tuple((gpu, check_compatibility(variant, gpu, memory)) for gpu in gpus))
        for name, variant in stack.spec.variants.items()
        if variant.device == "cuda"
    ]


def _next_step(candidates: Sequence[_Candidate], *, on_all: bool) -> str | None:
    """Return what to do where a variant does not fit: take the one that does, or update the driver."""
    fitting = next((f"--variant {one.name} fits" for one in candidates if one.is_usable(on_all)), None)
    drivers = [one.needs_driver for one in candidates if one.needs_driver]
    update = f"update NVIDIA's driver to {min(drivers, key=parse_version)} or newer" if drivers else None
    return ", or ".join(filter(None, (fitting, update))) or None


def _select_wanted(name: str, candidates: Sequence[_Candidate], *, on_all: bool) -> Selection:
    candidate = next(one for one in candidates if one.name == name)
    if not candidate.compatibilities:
        raise MachineError(f"the variant {name} needs a GPU", why="this machine has none", hint="orch doctor")
    if not candidate.is_usable(on_all):
        step = _next_step(candidates, on_all=on_all) or "orch doctor"
        raise MachineError(f"the variant {name} does not fit this machine", why=candidate.reasons(), hint=step)
    return _select_gpus(candidate, on_all, "asked for")


def _select_best(stack: StackEntry, candidates: Sequence[_Candidate], device: str | None, *, on_all: bool) -> Selection:
    usable = [one for one in candidates if not one.variant.on_request and one.is_usable(on_all)]
    if usable:
        best = max(usable, key=lambda one: one.rank)  # the first of equals
        first = best.best_gpus[0]
        why = f"--device {device}" if device else f"fits {first.name}, compute capability {first.capability}"
        rejected = _explain_rejected(candidates[: candidates.index(best)])
        return _select_gpus(best, on_all, "; ".join([why, *rejected]))
    problems = "; ".join(_explain_rejected(candidates))
    step = _next_step(candidates, on_all=on_all)
    if device is None and any(variant.device == "cpu" for variant in stack.spec.variants.values()):
        why = "; ".join(filter(None, (f"no variant fits the GPU: {problems}", step)))
        return _select_cpu(stack, why if candidates else _why_no_gpu(stack))
    raise _nothing_fits(stack, problems, step)


def _explain_rejected(candidates: Sequence[_Candidate]) -> Iterator[str]:
    for one in candidates:
        if one.variant.on_request:
            yield _on_request(one.name)
        else:
            yield f"{one.name}: {one.reasons() or 'this machine has no GPU'}"


def _on_request(name: str) -> str:
    return f"{name}: only on request: --variant {name}"


def _select_gpus(candidate: _Candidate, on_all: bool, why: str) -> Selection:
    gpus = tuple(gpu for gpu, _ in candidate.compatibilities) if on_all else candidate.best_gpus
    jit = [one.why for gpu, one in candidate.compatibilities if gpu in gpus and one.how == "jit"]
    skipped = [f"{gpu.name} is skipped: {one.why}" for gpu, one in candidate.compatibilities if gpu not in gpus]
    why = "; ".join(dict.fromkeys([why, *jit, *skipped]))
    return Selection(candidate.name, "cuda", why, tuple(gpu.device for gpu in gpus))


def _select_cpu(stack: StackEntry, why: str) -> Selection:
    for_cpu = {name: variant for name, variant in stack.spec.variants.items() if variant.device == "cpu"}
    for name, variant in for_cpu.items():
        if not variant.on_request:
            return Selection(name, "cpu", why)
    raise _nothing_fits(stack, "; ".join(map(_on_request, for_cpu)))


def _why_no_gpu(stack: StackEntry) -> str:
    uses_gpus = any(variant.device == "cuda" for variant in stack.spec.variants.values())
    return "no GPU to use on this machine" if uses_gpus else "this stack uses no GPU"


def _nothing_fits(stack: StackEntry, problems: str, step: str | None = None) -> MachineError:
    variants = stack.spec.variants
    why = problems or f"it has only {', '.join(f'{name} ({variant.device})' for name, variant in variants.items())}"
    cpu = "ask for the CPU: --device cpu" if any(one.device == "cpu" for one in variants.values()) else None
    hint = "; or ".join(filter(None, (step, cpu))) or None
    return MachineError(f"no variant of {stack.name} fits this machine", why=why, hint=hint)
