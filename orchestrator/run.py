"""One run from request to predictions: plan, weights, build, dispatch, collect. Each leaves its result on disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.binaries import as_built
from orchestrator.catalog import ModelEntry
from orchestrator.dispatch import Dispatched
from orchestrator.errors import BaseImageError, UsageError
from orchestrator.executors import EXECUTORS, make_executor
from orchestrator.executors.base import Work
from orchestrator.files import write_json
from orchestrator.hardware import Choice, Gpu, choose_variant, gpus_for
from orchestrator.input_sources import expanded
from orchestrator.inputs import InputSet, collect_inputs
from orchestrator.limits import most_detections, score_floor
from orchestrator.masks import gather_masks
from orchestrator.paths import RunPaths, weights_folder
from orchestrator.plan import Plan, Request, begun_with, default_shard_size, open_run, record_plan
from orchestrator.progress import Display
from orchestrator.runtimes import choose_runtime, make_runtime
from orchestrator.runtimes.base import BuildOptions, Runtime
from orchestrator.spec import MANIPULATION
from orchestrator.weights import Stored, ensure_weights, weights_in


@dataclass(frozen=True)
class RunOptions:
    """What a user asks of a run. None: the model's own default."""

    images: Sequence[str]
    out: Path | None = None
    image_root: Path | None = None
    runtime: str = "auto"
    executor: str = "local"
    variant: str | None = None
    device: str | None = None
    exif: str = "apply"
    score_threshold: float | None = None
    max_detections: int | None = None
    batch_size: int | None = None
    settings: Sequence[str] = ()
    shard_size: int | None = None
    workers: int = 1
    threads: int | None = None
    offline: bool = False
    build: BuildOptions = field(default_factory=BuildOptions)
    weights_folder: Path | None = None
    """Take the weights from here instead of the cache: for the self-test's random ones."""


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    paths: RunPaths
    summary: dict[str, Any]

    @property
    def failed(self) -> int:
        """Images that could not be predicted."""
        return int(self.summary["failed"])


def run(entry: ModelEntry, options: RunOptions, display: Display) -> Outcome:
    """Predict all images with a model. The same options on the same folder resume where it stopped.

    Raises UsageError, BuildError, MachineError, RunError, Interrupted; what was finished stays in the run directory.
    """
    present = gpus_for(entry.stack, options.device, options.variant)
    stack = as_built(entry.stack) if present else entry.stack
    choice = choose_variant(stack, options.variant, options.device, present, entry.spec.gpu_memory)
    request = make_request(entry, options, options.runtime, choice.variant, choice.device)
    out = options.out or Path("runs") / f"{entry.name}-{request.short_digest(options.runtime)}"
    paths = RunPaths(out.absolute())
    runtime, why = _choose_runtime(options.runtime, paths)
    machine = _Machine(runtime, why, choice, present)
    try:
        return _run(entry, options, paths, replace(request, runtime=runtime.name), machine, display)
    except BaseImageError as error:
        if options.runtime != "auto":
            raise
        display.say(f"{error.message}: {error.why}")
        machine = replace(machine, runtime=make_runtime("venv"), why="docker: the base image cannot be had")
        return _run(entry, options, paths, replace(request, runtime="venv"), machine, display)


@dataclass(frozen=True)
class _Machine:
    """What of this machine a run uses, and why."""

    runtime: Runtime
    why: str
    choice: Choice
    gpus: tuple[Gpu, ...]


def _choose_runtime(asked: str, paths: RunPaths) -> tuple[Runtime, str]:
    """With "auto", a run goes on with the runtime it was begun with, whatever this machine has by now."""
    begun = begun_with(paths)
    if asked == "auto" and begun is not None:
        return choose_runtime(begun)[0], "as the run was begun"
    return choose_runtime(asked)


def _run(
    entry: ModelEntry, options: RunOptions, paths: RunPaths, request: Request, machine: _Machine, display: Display
) -> Outcome:
    runtime, choice = machine.runtime, machine.choice
    display.say(f"{entry.name}: runtime {runtime.name} ({machine.why}), variant {choice.variant} ({choice.why})")
    with open_run(paths, request) as earlier:
        if earlier is not None and paths.summary.exists() and paths.predictions.exists():
            display.say(f"{paths.root} is complete already")
            return Outcome(paths, json.loads(paths.summary.read_text(encoding="utf-8")))
        runtime.require(choice.devices)
        inputs = collect_inputs(options.images, paths.unpacked, options.image_root)
        _say_inputs(display, inputs)
        weights = _weights(entry, options, display)
        prepared = runtime.prepare(entry.stack, choice.variant, options.build, display.detail)
        if prepared.fresh:
            display.say(f"built {prepared.location} in {prepared.seconds:.0f} s")
        shard_size = options.shard_size or default_shard_size(len(inputs.images))
        plan = Plan(request, entry, prepared, weights, inputs, shard_size)
        found = [asdict(gpu) for gpu in machine.gpus]
        used = {"gpus": found, "devices": list(choice.devices)}
        notes = {"why_runtime": machine.why, "why_variant": choice.why, **used}
        record_plan(paths, plan, earlier, notes)
        weights_at = options.weights_folder or weights_folder(entry.stack.name, entry.name)
        work = Work(plan, paths, runtime, weights_at, choice.devices, options.workers, options.threads)
        dispatched = make_executor(options.executor).dispatch(work, display)
        return finish(plan, paths, dispatched)


def make_request(entry: ModelEntry, options: RunOptions, runtime: str, variant: str, device: str) -> Request:
    """The request with the model's defaults filled in. Raises UsageError."""
    defaults = entry.spec.defaults
    if options.exif not in ("apply", "ignore"):
        raise UsageError(f"--exif {options.exif}: must be apply or ignore")
    if options.executor not in EXECUTORS:
        raise UsageError(f"there is no executor {options.executor!r}", why=f"there is {', '.join(EXECUTORS)}")
    settings = entry.settings(options.settings)
    return Request(
        model=entry.name,
        images=tuple(_absolute(source) for source in options.images),
        image_root=None if options.image_root is None else str(options.image_root.absolute()),
        runtime=runtime,
        variant=variant,
        device=device,
        exif=options.exif,
        score_threshold=score_floor(entry, settings, options.score_threshold),
        max_detections=most_detections(entry, settings, options.max_detections),
        batch_size=options.batch_size or defaults.batch_size,
        settings=settings,
        shard_size=options.shard_size,
    )


def _absolute(source: str) -> str:
    return os.path.abspath(expanded(source))


def _weights(entry: ModelEntry, options: RunOptions, display: Display) -> dict[str, Stored]:
    if options.weights_folder is not None:
        return weights_in(entry, options.weights_folder)
    return ensure_weights(entry, offline=options.offline, progress=display.transfer)


def _say_inputs(display: Display, inputs: InputSet) -> None:
    unreadable = sum(1 for image in inputs.images if image.error)
    words = [f"{len(inputs.images)} images"]
    if unreadable:
        words.append(f"{unreadable} of them cannot be read")
    if inputs.ignored:
        reasons: dict[str, int] = {}
        for one in inputs.ignored:
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        words.append(f"{len(inputs.ignored)} other files left out ({listed})")
    display.say("; ".join(words))
    for note in inputs.notes:
        display.say(note)


def finish(plan: Plan, paths: RunPaths, dispatched: Dispatched) -> Outcome:
    """Collect the shards, write the summary, and remove what nobody needs any more."""
    from orchestrator.collect import collect

    started = time.monotonic()
    shards = [paths.shard(number) for number in plan.shards]
    rows = ((image.file, image.image_id) for image in plan.inputs.images)
    collected = collect(shards, rows, plan.predictions_meta(), paths.predictions)
    pictures = {}
    if plan.entry.spec.task == MANIPULATION:
        gather_masks(plan, paths, predicted_images(paths.predictions))
        pictures = {"masks": str(paths.masks)}
    summary = {
        "model": plan.entry.name,
        "images": collected.images,
        "predicted": collected.images - collected.failed,
        "failed": collected.failed,
        "instances": collected.instances,
        "failures": failures(paths.predictions) if collected.failed else [],
        "ignored": len(plan.inputs.ignored),
        "predictions": str(paths.predictions),
        **pictures,
        "runtime": plan.prepared.runtime,
        "variant": plan.request.variant,
        "device": plan.request.device,
        "versions": versions(paths),
        "notices": list(dispatched.notices),
        "lost_workers": dispatched.lost_workers,
        "seconds": {"dispatch": round(dispatched.seconds, 3), "collect": round(time.monotonic() - started, 3)},
    }
    write_json(paths.summary, summary)
    with suppress(OSError):
        shutil.rmtree(paths.jobs)
    shutil.rmtree(paths.unpacked, ignore_errors=True)
    return Outcome(paths, summary)


def versions(paths: RunPaths) -> dict[str, str]:
    """What the run's last worker to get ready ran on."""
    found: dict[str, str] = {}
    with suppress(OSError), paths.events.open(encoding="utf-8") as events:
        for line in events:
            with suppress(ValueError):  # the last line of a run that was killed
                event = json.loads(line)
                found = event["versions"] if event["event"] == "ready" else found
    return found


def predicted_images(predictions: Path) -> list[bool]:
    """For each image, whether it was predicted."""
    from orchestrator.predictions import Predictions

    return [not status for status in Predictions.load(predictions).status]


def failures(predictions: Path) -> list[dict[str, str]]:
    """The images that could not be predicted, and why."""
    from orchestrator.predictions import Predictions

    loaded = Predictions.load(predictions)
    return [
        {"image_file": str(file), "error": str(error)}
        for file, status, error in zip(loaded.image_file, loaded.status, loaded.error, strict=True)
        if status
    ]
