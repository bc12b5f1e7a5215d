"""`orch plan`: what would run here, or on a machine that is described, before anything is downloaded or built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import ModelEntry, StackEntry
from orchestrator.catalog.weights import weights_state
from orchestrator.errors import OrchError, UsageError
from orchestrator.hardware import Choice, Gpu, Machine, choose_variant, fit, gpus_of
from orchestrator.hardware.compatibility import How
from orchestrator.hardware.devices import kind


@dataclass(frozen=True)
class Row:
    """How one variant runs on one device."""

    device: str
    """"cpu", a GPU's number for --device, or "cuda" where there is no GPU."""
    name: str
    """What the device is called."""
    variant: str
    runs: How
    why: str
    minutes: int | None = None
    """The first start takes so long, where that is known."""
    on_request: bool = False


@dataclass(frozen=True)
class Outlook:
    """Everything that could run, and what `orch run` would choose: `choice`, or the error it would end with."""

    model: str
    stack: str
    machine: Machine
    rows: tuple[Row, ...]
    choice: Choice | None
    error: OrchError | None

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "model": self.model,
            "stack": self.stack,
            "machine": asdict(self.machine),
            "rows": [asdict(row) for row in self.rows],
            "chosen": None if self.choice is None else asdict(self.choice),
        }


def outlook(entry: ModelEntry, machine: Machine, variant: str | None = None, device: str | None = None) -> Outlook:
    """What a model can run on a machine on. A pure function; raises UsageError for names that do not exist."""
    stack = entry.stack
    if device is not None:
        kind(device)
    choice: Choice | None = None
    error: OrchError | None = None
    try:
        present = gpus_of(machine, stack, device, variant)
        choice = choose_variant(stack, variant, device, present, entry.spec.gpu_memory)
    except UsageError:
        raise
    except OrchError as refusal:
        error = refusal
    return Outlook(entry.name, stack.name, machine, tuple(_rows(entry, machine)), choice, error)


def _rows(entry: ModelEntry, machine: Machine) -> Iterator[Row]:
    variants = entry.stack.spec.variants
    for name, variant in variants.items():
        if variant.device == "cpu":
            continue
        for number, gpu in enumerate(machine.gpus):
            found = fit(variant, gpu, entry.spec.gpu_memory)
            yield Row(str(number), gpu.name, name, found.how, found.why, found.minutes, variant.on_request)
        if not machine.gpus:
            why = f"the GPU driver does not answer: {machine.broken}" if machine.broken else machine.lacks
            yield Row("cuda", "no GPU", name, "impossible", why or "there is no GPU", None, variant.on_request)
    for name, variant in variants.items():
        if variant.device == "cpu":
            yield Row("cpu", "processor", name, "native", "needs no GPU", None, variant.on_request)


@dataclass(frozen=True)
class Download:
    """A weights file: how much is still to be fetched, in bytes where that is known."""

    key: str
    file: str
    state: str
    """"present", "missing", "changed" or "in the image"."""
    least: int | None = None
    most: int | None = None
    by_hand: bool = False

    def text(self) -> str:
        """For people."""
        if self.state != "missing":
            return f"{self.file}: {self.state}"
        if self.by_hand:
            return f"{self.file}: by hand (orch weights list says how)"
        known = [size for size in (self.least, self.most) if size is not None]
        size = " to ".join(f"{one / 1e6:.0f}" for one in dict.fromkeys(known))
        return f"{self.file}: to be fetched, {f'{size} MB' if size else 'size not known'}"


def downloads(entry: ModelEntry) -> tuple[Download, ...]:
    """The weights that a run needs, and which of them are here."""
    found = []
    for key, spec in entry.spec.weights.items():
        least, most = (spec.size, spec.size) if spec.size is not None else spec.size_range or (None, None)
        state = weights_state(entry, key)
        found.append(Download(key, spec.file, state, least, most, spec.manual is not None))
    return tuple(found)


@dataclass(frozen=True)
class Environment:
    """Whether a variant is built: image tag or folder, and by which runtime."""

    runtime: str
    variant: str
    location: str
    built: bool


def environment(stack: StackEntry, variant: str, runtime: str) -> Environment | None:
    """What `orch run` would start workers in; None where that cannot be known. Builds nothing."""
    from orchestrator.runtimes.base import BuildOptions
    from orchestrator.runtimes.build_inputs import build_inputs, build_lock_of, find_variant
    from orchestrator.runtimes.docker.build import with_default_base

    with suppress(OrchError):
        if runtime == "docker":
            from orchestrator.runtimes.docker.build import image_id, image_tag
            from orchestrator.system.container_engine import connect

            tag = image_tag(build_inputs(stack, variant, with_default_base(BuildOptions())))
            return Environment(runtime, variant, tag, image_id(connect(), tag) is not None)
        if runtime == "apptainer":
            from orchestrator.runtimes.apptainer import sif_path

            image = sif_path(build_inputs(stack, variant, with_default_base(BuildOptions())))
            return Environment(runtime, variant, str(image), image.is_file())
        from orchestrator.runtimes.venv import environment_folder, is_whole

        spec = find_variant(stack, variant)
        pythons = (spec.python, *spec.also_python)
        folder: Path = environment_folder(
            f"{stack.name}-{variant}", stack.folder / spec.lock, pythons, build_lock_of(stack, variant)
        )
        return Environment(runtime, variant, str(folder), is_whole(folder))
    return None


@dataclass(frozen=True)
class Prospect:
    """An outlook, and what a run would need on the way: weights, a runtime, an environment."""

    outlook: Outlook
    downloads: tuple[Download, ...]
    runtime: str | None = None
    why_runtime: str | None = None
    environment: Environment | None = None
    error: OrchError | None = None
    """What `orch run` would end with."""

    @property
    def exit_code(self) -> int:
        """0 where something would run."""
        return 0 if self.error is None else self.error.exit_code

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            **self.outlook.as_json(),
            "downloads": [asdict(one) for one in self.downloads],
            "runtime": self.runtime,
            "why_runtime": self.why_runtime,
            "environment": None if self.environment is None else asdict(self.environment),
            "error": None if self.error is None else self.error.as_json(),
            "exit_code": self.exit_code,
        }


def prospect(entry: ModelEntry, ahead: Outlook, runtime: str | None) -> Prospect:
    """What a run would need. `runtime`: what was asked for; None on a machine that is only described."""
    from orchestrator.runtimes.base import choose_runtime

    weights = downloads(entry)
    if ahead.choice is None or runtime is None:
        return Prospect(ahead, weights, error=ahead.error)
    try:
        chosen, why = choose_runtime(runtime)
        chosen.require(ahead.choice.devices)
    except UsageError:
        raise
    except OrchError as error:
        return Prospect(ahead, weights, error=error)
    built = environment(entry.stack, ahead.choice.variant, chosen.name)
    return Prospect(ahead, weights, chosen.name, why, built)


def gpu_names(gpus: tuple[Gpu, ...], devices: tuple[str, ...]) -> list[str]:
    """What the devices of a choice are called."""
    by_device = {gpu.device: f"{number} ({gpu.name})" for number, gpu in enumerate(gpus)}
    return [by_device.get(device, device) for device in devices]
