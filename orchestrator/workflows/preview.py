"""`orch plan`: what would run here, or on a described machine, without fetching or building."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.catalog import ModelEntry, weights_state
from orchestrator.errors import OrchError, UsageError
from orchestrator.hardware import (
    Gpu,
    How,
    Machine,
    Selection,
    check_compatibility,
    choose_variant,
    device_kind,
    gpus_of,
)
from orchestrator.runtimes import BuildOptions, Limits, apply_gpu_code, choose_runtime


@dataclass(frozen=True)
class VariantRow:
    """How one variant runs on one device."""

    device: str  # "cpu", a GPU's label for --device, or "cuda" where there is no GPU
    name: str  # the device's name
    variant: str
    runs: How
    why: str
    minutes: int | None = None  # minutes that the first start takes, where that is known
    on_request: bool = False


@dataclass(frozen=True)
class VariantPreview:
    """Every variant on every device, and what `orch run` would select, or the error it would end with."""

    model: str
    stack: str
    machine: Machine
    rows: tuple[VariantRow, ...]
    selection: Selection | None
    error: OrchError | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "stack": self.stack,
            "machine": asdict(self.machine),
            "rows": [asdict(row) for row in self.rows],
            "chosen": None if self.selection is None else asdict(self.selection),
        }


@dataclass(frozen=True)
class WeightsPreview:
    """A weights file, and the bytes still to be fetched where they are known."""

    key: str
    file: str
    state: str  # "present", "missing", "changed" or "in the image"
    least: int | None = None
    most: int | None = None
    by_hand: bool = False

    def text(self) -> str:
        if self.state != "missing":
            return f"{self.file}: {self.state}"
        if self.by_hand:
            return f"{self.file}: must be downloaded manually (orch weights list explains how)"
        known = [size for size in (self.least, self.most) if size is not None]
        size = " to ".join(f"{one / 1e6:.0f}" for one in dict.fromkeys(known))
        return f"{self.file}: to be fetched, {f'{size} MB' if size else 'size not known'}"


@dataclass(frozen=True)
class EnvironmentPreview:
    """Where a runtime keeps a variant, and whether it is built."""

    runtime: str
    variant: str
    location: str
    built: bool


@dataclass(frozen=True)
class RunPreview:
    """The variants, and what a run would need: weights, a runtime, an environment."""

    variants: VariantPreview
    downloads: tuple[WeightsPreview, ...]
    runtime: str | None = None
    why_runtime: str | None = None
    environment: EnvironmentPreview | None = None
    workers: Limits | None = None  # what each worker may use; None where no runtime is known
    error: OrchError | None = None  # the error that `orch run` would end with

    @property
    def exit_code(self) -> int:
        """0 where the model would run."""
        return 0 if self.error is None else self.error.exit_code

    def as_json(self) -> dict[str, Any]:
        return {
            **self.variants.as_json(),
            "downloads": [asdict(one) for one in self.downloads],
            "runtime": self.runtime,
            "why_runtime": self.why_runtime,
            "workers": None if self.workers is None else self.workers.as_json(),
            "environment": None if self.environment is None else asdict(self.environment),
            "error": None if self.error is None else self.error.as_json(),
            "exit_code": self.exit_code,
        }


def preview_run(
    entry: ModelEntry, machine: Machine, runtime: str | None, variant: str | None = None, device: str | None = None
) -> RunPreview:
    """Return what a run of the model would select and need. Builds and fetches nothing.

    `runtime`: the one asked for; None on a machine that is only described. Raises UsageError for unknown names.
    """
    entry = replace(entry, stack=apply_gpu_code(entry.stack))
    variants = preview_variants(entry, machine, variant, device)
    weights = tuple(_preview_weights(entry))
    if variants.selection is None or runtime is None:
        return RunPreview(variants, weights, error=variants.error)
    try:
        chosen, why = choose_runtime(runtime)
        chosen.require(variants.selection.devices)
        workers = chosen.limits_in_force(len(variants.selection.devices))
    except UsageError:
        raise
    except OrchError as error:
        return RunPreview(variants, weights, error=error)
    environment = None
    name = variants.selection.variant
    with suppress(OrchError):
        location = chosen.locate(entry.stack, name, BuildOptions())
        environment = EnvironmentPreview(chosen.name, name, location.path, location.is_built)
    return RunPreview(variants, weights, chosen.name, why, environment, workers)


def preview_variants(
    entry: ModelEntry, machine: Machine, variant: str | None = None, device: str | None = None
) -> VariantPreview:
    """Return how a model's variants run on a machine. A pure function; raises UsageError for unknown names."""
    stack = entry.stack
    if device is not None:
        device_kind(device)
    rows = tuple(_rows(entry, machine))
    try:
        gpus = gpus_of(machine, stack, device, variant)
        selection = choose_variant(stack, variant, device, gpus, entry.spec.gpu_memory)
    except UsageError:
        raise
    except OrchError as error:
        return VariantPreview(entry.name, stack.name, machine, rows, None, error)
    return VariantPreview(entry.name, stack.name, machine, rows, selection, None)


def _rows(entry: ModelEntry, machine: Machine) -> Iterator[VariantRow]:
    variants = entry.stack.spec.variants
    for name, variant in variants.items():
        if variant.device == "cpu":
            continue
        for gpu in machine.gpus:
            how = check_compatibility(variant, gpu, entry.spec.gpu_memory)
            yield VariantRow(gpu.label, gpu.name, name, how.how, how.why, how.minutes, variant.on_request)
        if not machine.gpus:
            why = f"the GPU driver does not answer: {machine.broken}" if machine.broken else machine.lacks
            yield VariantRow("cuda", "no GPU", name, "impossible", why or "there is no GPU", None, variant.on_request)
    for name, variant in variants.items():
        if variant.device == "cpu":
            yield VariantRow("cpu", "processor", name, "native", "needs no GPU", None, variant.on_request)


def _preview_weights(entry: ModelEntry) -> Iterator[WeightsPreview]:
    for key, spec in entry.spec.weights.items():
        least, most = (spec.size, spec.size) if spec.size is not None else spec.size_range or (None, None)
        state = weights_state(entry, key)
        yield WeightsPreview(key, spec.file, state, least, most, spec.manual is not None)


def name_gpus(gpus: tuple[Gpu, ...], devices: tuple[str, ...]) -> list[str]:
    """Return the labels and names of the devices of a selection."""
    by_device = {gpu.device: f"{gpu.label} ({gpu.name})" for gpu in gpus}
    return [by_device.get(device, device) for device in devices]
