"""One run from request to predictions: plan, weights, build, dispatch, collect. Each leaves its result on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import ModelEntry
from orchestrator.catalog.weights import Stored, ensure_weights, weights_in
from orchestrator.dispatch.executors import Executor, Work, make_executor
from orchestrator.dispatch.outcome import Outcome, finish
from orchestrator.dispatch.shared.work_file import unresolved
from orchestrator.dispatch.sharing import Alone, Turns
from orchestrator.dispatch.slots import busy_gpus, devices_of_places
from orchestrator.errors import BaseImageError
from orchestrator.hardware import Choice, Gpu
from orchestrator.inputs.collect import InputSet, collect_inputs
from orchestrator.paths import RunPaths, weights_folder
from orchestrator.plan.disk_space import build_needs, output_need, require_space, weights_needs
from orchestrator.plan.options import RunOptions
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import AUTO, Request, make_request
from orchestrator.plan.run_directory import begun_with, open_run, record_plan
from orchestrator.plan.shards import default_shard_size
from orchestrator.runtimes.base import Prepared, Runtime, choose_runtime, make_runtime
from orchestrator.runtimes.warm.errors import OutsideData, WarmUnfit
from orchestrator.runtimes.warm.select import Warm, Wish, check_wish, find_warm, refusal
from orchestrator.system.display import Display


def run_model(entry: ModelEntry, options: RunOptions, display: Display, turns: Turns | None = None) -> Outcome:
    """Predict all images with a model. The same options on the same folder resume where it stopped.

    Raises UsageError, BuildError, MachineError, RunError, Interrupted; what was finished stays in the run directory.
    """
    executor = make_executor(options.executor)
    choice, gpus = executor.choose(entry, options.variant, options.device)
    request = make_request(entry, options, options.runtime, choice.variant, choice.device)
    out = options.out or Path("runs") / f"{entry.name}-{request.short_digest(options.runtime)}"
    paths = RunPaths(out.absolute())
    choice = _begun_choice(choice, paths)
    request = replace(request, variant=choice.variant, device=choice.device)
    ask = _Ask(entry, options, request, paths, executor, choice, gpus, turns or Alone(), display)
    outcome = _with_warm_workers(ask) or _with_own_workers(ask)
    if outcome.complete or not options.slurm.wait:
        return outcome
    from orchestrator.dispatch.attach import attach

    return attach(paths, display)


@dataclass(frozen=True)
class _Ask:
    """All that is settled before the way of carrying a run out is chosen."""

    entry: ModelEntry
    options: RunOptions
    request: Request
    paths: RunPaths
    executor: Executor
    choice: Choice
    gpus: tuple[Gpu, ...]
    turns: Turns
    display: Display


@dataclass(frozen=True)
class _Way:
    """One way of carrying it out, and why this one."""

    runtime: Runtime
    why: str
    paths: RunPaths
    threads: int | None
    accept: Callable[[InputSet, Mapping[str, Stored]], None] = lambda inputs, weights: None
    """Raises where this cannot do with these images and weights."""
    leases: bool = True
    """Whether the run takes GPUs of its own."""


def _begun_choice(choice: Choice, paths: RunPaths) -> Choice:
    """Where a node chooses, a run goes on with what the first node chose."""
    variant, device = begun_with(paths, "variant"), begun_with(paths, "device")
    if choice.variant != AUTO or variant is None or device is None or variant == AUTO:
        return choice
    return Choice(variant, device, "as the run was begun")


def _with_warm_workers(ask: _Ask) -> Outcome | None:
    """The run by workers that are up already; None where there are none that fit, or none are wanted."""
    options = ask.options
    warm = _warm(ask)
    if warm is None:
        return None
    threads = options.threads or warm.threads
    way = _Way(warm.runtime, warm.why, warm.runtime.paths, threads, warm.runtime.accept, leases=False)
    try:
        with closing(warm.runtime):
            return _carry_out(ask, way)
    except (WarmUnfit, OutsideData) as error:
        if options.warm or warm.runtime.started:
            raise
        ask.display.say(f"not using a warm worker: {error.message}{f' ({error.why})' if error.why else ''}")
        return None


def _warm(ask: _Ask) -> Warm | None:
    options, wish = ask.options, Wish(ask.options.warm, ask.options.spool)
    why_not = refusal(wish, options.runtime, options.executor, ask.paths, options.weights_folder is not None)
    if not check_wish(wish, why_not):
        return None
    return find_warm(wish, ask.entry, ask.choice, ask.paths, options.build, ask.display.say)


def _with_own_workers(ask: _Ask) -> Outcome:
    asked = ask.options.runtime
    runtime, why = _choose_runtime(asked, ask.paths)
    way = _Way(runtime, why, ask.paths, ask.options.threads)
    try:
        return _carry_out(ask, way)
    except BaseImageError as error:
        if asked != "auto":
            raise
        ask.display.say(f"{error.message}: {error.why}")
        return _carry_out(ask, replace(way, runtime=make_runtime("venv"), why="docker: the base image cannot be had"))


def _choose_runtime(asked: str, paths: RunPaths) -> tuple[Runtime, str]:
    """With "auto", a run goes on with the runtime it was begun with, whatever this machine has by now."""
    begun = begun_with(paths)
    if asked == "auto" and begun is not None:
        return choose_runtime(begun)[0], "as the run was begun"
    return choose_runtime(asked)


def _carry_out(ask: _Ask, way: _Way) -> Outcome:
    entry, options, choice, display, paths = ask.entry, ask.options, ask.choice, ask.display, way.paths
    request = replace(ask.request, runtime=way.runtime.name)
    display.say(f"{entry.name}: runtime {way.runtime.name} ({way.why}), variant {choice.variant} ({choice.why})")
    with open_run(paths, request) as earlier:
        if earlier is not None and paths.summary.exists() and paths.predictions.exists():
            display.say(f"{paths.root} is complete already")
            return Outcome(paths, json.loads(paths.summary.read_text(encoding="utf-8")))
        way.runtime.require(choice.devices)
        inputs = collect_inputs(options.images, paths.unpacked, options.image_root)
        _say_inputs(display, inputs)
        _require_space(ask, way, 0 if earlier else len(inputs.images))
        weights = _weights(entry, options, display)
        way.accept(inputs, weights)
        prepared = _prepared(ask, way)
        shard_size = options.shard_size or _shard_size(earlier, len(inputs.images), request.batch_size)
        plan = Plan(request, entry, prepared, weights, inputs, shard_size)
        used = {"gpus": [asdict(gpu) for gpu in ask.gpus], "devices": list(choice.devices)}
        record_plan(paths, plan, earlier, {"why_runtime": way.why, "why_variant": choice.why, **used})
        for line in busy_gpus(choice.devices, ask.gpus) if way.leases else ():
            display.say(line)
        with ask.turns.predicting(choice.device if options.executor == "local" else options.executor):
            dispatched = ask.executor.dispatch(_work(ask, way, plan), display)
        return Outcome(paths, {}) if dispatched is None else finish(plan, paths, dispatched)


def _prepared(ask: _Ask, way: _Way) -> Prepared:
    """The variant made real here, or left to the node that chooses it. Raises BuildError, MachineError."""
    if ask.choice.variant == AUTO:
        return unresolved(ask.entry.stack, way.runtime.name)
    with ask.turns.building():
        prepared = way.runtime.prepare(ask.entry.stack, ask.choice.variant, ask.options.build, ask.display.detail)
    if prepared.fresh:
        ask.display.say(f"built {prepared.location} in {prepared.seconds:.0f} s")
    return prepared


def _shard_size(earlier: Mapping[str, Any] | None, images: int, batch_size: int) -> int:
    """Images per shard: as the run was begun, else by the images and batches alone."""
    begun = (earlier or {}).get("shard_size")
    return begun if isinstance(begun, int) and begun > 0 else default_shard_size(images, batch_size)


def _work(ask: _Ask, way: _Way, plan: Plan) -> Work:
    """What the executor is handed: devices, workers, and whether to wait for a GPU."""
    entry, options = ask.entry, ask.options
    free = {gpu.device: gpu.memory if gpu.free is None else gpu.free for gpu in ask.gpus}
    devices, workers = devices_of_places(
        ask.choice.devices, options.workers, options.workers_per_gpu, free, entry.spec.gpu_memory
    )
    return Work(
        plan,
        way.paths,
        way.runtime,
        options.weights_folder or weights_folder(entry.stack.name, entry.name),
        devices,
        workers,
        way.threads,
        wait=options.wait,
        leases=way.leases,
        most_gpus=ask.turns.most_gpus,
        asked_workers=options.workers,
        workers_per_gpu=options.workers_per_gpu,
        build=options.build,
        slurm=options.slurm,
    )


def _require_space(ask: _Ask, way: _Way, images: int) -> None:
    """Before anything is fetched or built. Raises MachineError."""
    entry, options = ask.entry, ask.options
    needs = [output_need(way.paths.root, images)]
    if ask.choice.variant != AUTO:
        needs += build_needs(entry.stack, ask.choice.variant, way.runtime, options.build)
    if options.weights_folder is None:
        needs += weights_needs(entry)
    require_space(needs, entry.name)


def _weights(entry: ModelEntry, options: RunOptions, display: Display) -> dict[str, Stored]:
    if options.weights_folder is not None:
        return weights_in(entry, options.weights_folder)
    return ensure_weights(entry, offline=options.offline, progress=display.transfer)


def _say_inputs(display: Display, inputs: InputSet) -> None:
    unreadable = inputs.images.unreadable
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
