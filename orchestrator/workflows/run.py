"""One run, from the request to predictions. Each stage leaves its result on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import ModelEntry
from orchestrator.catalog.weights import Stored, ensure_weights, weights_in
from orchestrator.dispatch.attach import attach
from orchestrator.dispatch.executors import Executor, Work, make_executor
from orchestrator.dispatch.outcome import Outcome, finish
from orchestrator.dispatch.shared.work_file import unresolved
from orchestrator.dispatch.sharing import Alone, Turns
from orchestrator.dispatch.slots import busy_gpus, devices_of_places
from orchestrator.dispatch.slurm.settings import SlurmOptions, slurm_options
from orchestrator.errors import UsageError
from orchestrator.hardware import Choice, Gpu
from orchestrator.inputs.collect import InputSet, collect_inputs
from orchestrator.paths import RunPaths, user_slurm_options, weights_folder
from orchestrator.plan.disk_space import Need, build_needs, output_need, require_space, weights_needs
from orchestrator.plan.options import RunOptions
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import AUTO, Request, make_request
from orchestrator.plan.run_directory import open_run, read_request_field, record_plan
from orchestrator.plan.shards import default_shard_size
from orchestrator.runtimes.base import Prepared, Runtime
from orchestrator.system.display import Display
from orchestrator.workflows.candidates import Candidate, runtime_candidates


def run_model(entry: ModelEntry, options: RunOptions, display: Display, sharing: Turns | None = None) -> Outcome:
    """Predict all images with a model. The same options and folder resume a run that was interrupted.

    Raises UsageError, BuildError, MachineError, RunError, Interrupted; finished shards stay in the run directory.
    """
    sharing = sharing or Alone()
    executor = make_executor(options.executor)
    settings = _parse_settings(options)
    choice, gpus = executor.choose(entry, options.variant, options.device)
    request = make_request(entry, options, options.runtime, choice.variant, choice.device)
    root = RunPaths(_run_folder(request, options).absolute())
    choice = _resume_choice(choice, root)
    for candidate in runtime_candidates(entry, options, choice, root, display.say):
        runtime, paths = candidate.runtime, candidate.paths(root)
        request = replace(request, runtime=runtime.name, variant=choice.variant, device=choice.device)
        display.say(f"{entry.name}: runtime {runtime.name} ({candidate.why}), variant {choice.variant} ({choice.why})")
        with candidate, open_run(paths, request) as earlier:
            if earlier is not None and paths.summary.exists() and paths.predictions.exists():
                display.say(f"{paths.root} is complete already")
                return Outcome(paths, json.loads(paths.summary.read_text(encoding="utf-8")))
            runtime.require(choice.devices)
            inputs = collect_inputs(options.images, paths.unpacked, options.image_root)
            _say_inputs(display, inputs)
            new_images = 0 if earlier else len(inputs.images)
            require_space([*_space_needs(entry, options, choice, runtime, paths, new_images)], entry.name)
            weights = _get_weights(entry, options, display)
            candidate.accept(inputs, weights)
            prepared = _build(entry, options, choice, runtime, sharing, display)
            plan = Plan(request, entry, prepared, weights, inputs, _shard_size(earlier, options, request, inputs))
            record_plan(paths, plan, earlier, _notes(candidate, choice, gpus))
            work = _make_work(plan, paths, candidate, options, choice, gpus, sharing, settings)
            for line in busy_gpus(choice.devices, gpus) if work.leases else ():
                display.say(line)
            outcome = _execute(executor, work, options, sharing, display)
            if outcome.complete or not (options.wait and settings.wait):
                return outcome
            break
    return attach(root, display)


def _run_folder(request: Request, options: RunOptions) -> Path:
    return options.out or Path("runs") / f"{request.model}-{request.short_digest(options.runtime)}"


def _resume_choice(choice: Choice, paths: RunPaths) -> Choice:
    """Return what the first machine of a cluster chose, if this run was begun and left the choice to it."""
    variant, device = read_request_field(paths, "variant"), read_request_field(paths, "device")
    if choice.variant != AUTO or variant is None or device is None or variant == AUTO:
        return choice
    return Choice(variant, device, "as the run was begun")


def _parse_settings(options: RunOptions) -> SlurmOptions:
    """Return the settings of the executor. Raises UsageError."""
    given: dict[str, Any] = {}
    for text in options.executor_settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--slurm {text}: write it as KEY=VALUE")
        if key in ("sbatch", "setup"):
            given[key] = [*given.get(key, ()), value]
        else:
            given[key] = value
    return slurm_options(user_slurm_options(), given) if options.executor == "slurm" else SlurmOptions()


def _space_needs(
    entry: ModelEntry, options: RunOptions, choice: Choice, runtime: Runtime, paths: RunPaths, new_images: int
) -> Iterator[Need]:
    """Return what a run will write to disks, so that a full one is reported before anything is fetched or built."""
    yield output_need(paths.root, new_images)
    if choice.variant != AUTO:
        yield from build_needs(entry.stack, choice.variant, runtime, options.build)
    if options.weights_folder is None:
        yield from weights_needs(entry)


def _say_inputs(display: Display, inputs: InputSet) -> None:
    parts = [f"{len(inputs.images)} images"]
    if inputs.images.unreadable:
        parts.append(f"{inputs.images.unreadable} of them cannot be read")
    if inputs.ignored:
        reasons = Counter(ignored.reason for ignored in inputs.ignored)
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        parts.append(f"{len(inputs.ignored)} other files skipped ({listed})")
    display.say("; ".join(parts))
    for note in inputs.notes:
        display.say(note)


def _get_weights(entry: ModelEntry, options: RunOptions, display: Display) -> dict[str, Stored]:
    if options.weights_folder is not None:
        return weights_in(entry, options.weights_folder)
    return ensure_weights(entry, offline=options.offline, progress=display.transfer)


def _build(
    entry: ModelEntry, options: RunOptions, choice: Choice, runtime: Runtime, sharing: Turns, display: Display
) -> Prepared:
    """Build the variant unless another machine chooses it later. Raises BuildError, MachineError."""
    if choice.variant == AUTO:
        return unresolved(entry.stack, runtime.name)
    with sharing.building():
        prepared = runtime.prepare(entry.stack, choice.variant, options.build, display.detail)
    if prepared.fresh:
        display.say(f"built {prepared.location} in {prepared.seconds:.0f} s")
    return prepared


def _shard_size(earlier: Mapping[str, Any] | None, options: RunOptions, request: Request, inputs: InputSet) -> int:
    """Return images per shard: as asked for, else as the run was begun, else by the numbers of images and batches."""
    if options.shard_size:
        return options.shard_size
    begun = (earlier or {}).get("shard_size")
    if isinstance(begun, int) and begun > 0:
        return begun
    return default_shard_size(len(inputs.images), request.batch_size)


def _notes(candidate: Candidate, choice: Choice, gpus: tuple[Gpu, ...]) -> dict[str, Any]:
    """Return what run.json records beside the plan: why this runtime and variant, and on which GPUs."""
    return {
        "why_runtime": candidate.why,
        "why_variant": choice.why,
        "gpus": [asdict(gpu) for gpu in gpus],
        "devices": list(choice.devices),
    }


def _make_work(
    plan: Plan,
    paths: RunPaths,
    candidate: Candidate,
    options: RunOptions,
    choice: Choice,
    gpus: tuple[Gpu, ...],
    sharing: Turns,
    settings: SlurmOptions,
) -> Work:
    """Return all that the executor needs: the plan, its devices, and the number of workers."""
    entry = plan.entry
    free = {gpu.device: gpu.memory if gpu.free is None else gpu.free for gpu in gpus}
    devices, workers = devices_of_places(
        choice.devices, options.workers, options.workers_per_gpu, free, entry.spec.gpu_memory
    )
    return Work(
        plan,
        paths,
        candidate.runtime,
        options.weights_folder or weights_folder(entry.stack.name, entry.name),
        devices,
        workers,
        options.threads or candidate.threads,
        wait=options.wait,
        leases=candidate.warm is None,
        most_gpus=sharing.most_gpus,
        asked_workers=options.workers,
        workers_per_gpu=options.workers_per_gpu,
        build=options.build,
        slurm=settings,
    )


def _execute(executor: Executor, work: Work, options: RunOptions, sharing: Turns, display: Display) -> Outcome:
    """Predict what is missing, and collect, unless other machines do both later."""
    with sharing.predicting(work.plan.request.device if options.executor == "local" else options.executor):
        dispatched = executor.dispatch(work, display)
    return Outcome(work.paths, {}) if dispatched is None else finish(work.plan, work.paths, dispatched)
