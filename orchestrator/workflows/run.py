"""One run, from the request to predictions. Each stage leaves its result on disk."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from orchestrator.catalog import (
    PUBLISHED_RECIPE,
    STACKS,
    ModelEntry,
    Stored,
    ensure_weights,
    known_digests,
    weights_folder_of,
    weights_in,
)
from orchestrator.dispatch import (
    ExecutorSettings,
    NoSharing,
    Outcome,
    Sharing,
    Work,
    find_submission,
    follow_run,
    get_executor,
    make_placeholder,
    read_outcome,
    refuse_active_submission,
    remove_changed_masks,
    remove_job_folders,
)
from orchestrator.errors import RunError, UsageError
from orchestrator.hardware import Gpu, Selection
from orchestrator.inputs import InputSet, collect_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan import (
    AUTO,
    MOST_SHARDS,
    Changes,
    Plan,
    Request,
    RunChanged,
    RunOptions,
    all_parts,
    build_needs,
    compare_run,
    default_shard_size,
    make_request,
    open_run,
    output_need,
    read_request_field,
    record_plan,
    update_run,
    weights_needs,
)
from orchestrator.runtimes import Prepared, Runtime, result_parts
from orchestrator.system import Display, Need, count_of, remove, require_space
from orchestrator.workflows.candidates import Candidate, runtime_candidates
from orchestrator.workflows.history import remember_run


def run_model(entry: ModelEntry, options: RunOptions, display: Display, sharing: Sharing | None = None) -> Outcome:
    """Predict all images with a model. The same options and folder resume a run that was interrupted.

    Without `options.out`, a run of other images than those in its folder gets the next free folder. Raises UsageError,
    BuildError, MachineError, RunError, Interrupted; finished shards stay in the run directory.
    """
    executor = get_executor(options.executor)
    if options.user is not None and options.executor != "local":
        why = "its tasks run as you on other machines"
        raise UsageError(
            f"--user cannot be used with the executor {options.executor}", why=why, hint="leave --user out"
        )
    choice, gpus = executor.select(entry, options.variant, options.device)
    request = make_request(entry, options, options.runtime, choice.variant, choice.device)
    for folder in default_folders(options, request):
        try:
            return _run_in_folder(folder, entry, options, request, choice, gpus, display, sharing or NoSharing())
        except RunChanged as changed:
            if options.out is not None:
                raise
            display.say(f"{changed.message} ({changed.why}): using the next folder; --update would change this one")
    raise AssertionError("there is always a next folder")


def default_folders(options: RunOptions, request: Request) -> Iterator[Path]:
    """Return the folders that a run may have: the one asked for, else runs/MODEL-DIGEST, then with a number."""
    if options.out is not None:
        yield options.out
        return
    default = f"{request.model}-{request.short_digest(options.runtime)}"
    yield Path("runs", default)
    yield from (Path("runs", f"{default}-{number}") for number in count(2))


def _run_in_folder(
    folder: Path,
    entry: ModelEntry,
    options: RunOptions,
    request: Request,
    choice: Selection,
    gpus: tuple[Gpu, ...],
    display: Display,
    sharing: Sharing,
) -> Outcome:
    """Begin or resume the run of a folder. Raises RunChanged for one of something else, and what run_model raises."""
    executor, root = get_executor(options.executor), RunPaths(folder.absolute())
    settings = executor.settings_type.parse(options.executor_settings)
    choice = _resume_choice(choice, root)
    for candidate in runtime_candidates(entry, options, choice, root, display.say):
        runtime, paths = candidate.runtime, candidate.paths(root)
        request = replace(request, runtime=runtime.name, variant=choice.variant, device=choice.device)
        display.say(f"{entry.name}: runtime {runtime.name} ({candidate.why}), variant {choice.variant} ({choice.why})")
        if candidate.warm is None:
            runtime.set_limits(options.limits)
            _warn_of_foreign_code(entry, options, runtime, display)
        # The candidate ends under the lock: what it staged is named after the folder, later perhaps another command's.
        with open_run(paths, request, update=options.update) as earlier, candidate:
            inputs = collect_inputs(
                options.images, paths.unpacked, options.image_root, options.follow_links, options.offline
            )
            parts = {} if choice.variant == AUTO else result_parts(entry.stack, choice.variant, options.build)
            changes = None if earlier is None else _find_changes(paths, earlier, inputs, entry, options, parts)
            if earlier is not None and not changes:
                outcome = _find_outcome(paths, earlier, display)
                if outcome is not None:
                    return outcome
            runtime.require(choice.devices)
            _say_departures(entry, request, display)
            runtime.require_folders([paths.root])
            _say_inputs(display, inputs)
            new_images = 0 if earlier and not changes else len(inputs.images)
            require_space([*_space_needs(entry, options, choice, runtime, paths, new_images)], entry.name)
            weights = _get_weights(entry, options, display)
            candidate.accept(inputs, weights)
            prepared = _build(entry, options, choice, runtime, sharing, display)
            size = _shard_size(earlier, options, request, inputs)
            plan = Plan(request, entry, prepared, weights, inputs, size, parts)
            notes = {**_notes(candidate, choice, gpus), "recipe_departures": entry.departures(request.settings)}
            if earlier is not None and changes:
                _update(paths, plan, earlier, changes, notes, display)
            else:
                record_plan(paths, plan, earlier, notes)
                remember_run(paths.root)
            work = _make_work(plan, paths, candidate, options, choice, gpus, sharing, settings)
            outcome = executor.execute(work, display)
            if outcome.complete or not (options.wait and settings.wait):
                return outcome
            break
    return follow_run(root, display)


def _find_changes(
    paths: RunPaths,
    earlier: Mapping[str, Any],
    inputs: InputSet,
    entry: ModelEntry,
    options: RunOptions,
    parts: Mapping[str, str],
) -> Changes:
    """Compare the folder's run with this one. Raises RunChanged, unless it is to be updated."""
    if options.weights_folder is not None:
        digests = {key: stored.sha256 for key, stored in weights_in(entry, options.weights_folder).items()}
    else:
        digests = known_digests(entry)
    changes = compare_run(paths, earlier, inputs, all_parts(entry, parts), digests, update=options.update)
    if changes.is_list_changed:
        remove_job_folders(paths.jobs)  # what workers left there was predicted from files with other times
    return changes


def _update(
    paths: RunPaths,
    plan: Plan,
    earlier: Mapping[str, Any],
    changes: Changes,
    notes: Mapping[str, Any],
    display: Display,
) -> None:
    """Change the folder's run to `plan`, and say what is kept. Raises UsageError while a cluster works on it."""
    refuse_active_submission(paths)
    submission, outcome = find_submission(paths), read_outcome(paths)
    if outcome is not None:
        remove_changed_masks(outcome)  # their rows are not kept
    kept = update_run(paths, plan, earlier, changes, notes)
    if submission is not None:
        remove(paths.submission(submission.executor))
    display.say(f"updating {paths.root}: {changes.describe()}; {kept} of {len(plan.inputs.images)} images are kept")


def _say_departures(entry: ModelEntry, request: Request, display: Display) -> None:
    """Say which settings depart from the model's published recipe, so that nobody takes its figures for ours."""
    departures = entry.departures(request.settings)
    if departures:
        used = ", ".join(f"{name}={request.settings[name]}" for name in departures)
        theirs = ", ".join(f"{name}={value}" for name, value in departures.items())
        display.say(f"{used} departs from its published recipe ({theirs}); --set {PUBLISHED_RECIPE} follows it")


def _warn_of_foreign_code(entry: ModelEntry, options: RunOptions, runtime: Runtime, display: Display) -> None:
    """Say in one line that nothing contains a model whose stack or weights do not come with orch."""
    if runtime.is_contained:
        return
    stack, weights = entry.stack, entry.spec.weights.values()
    foreign = [] if stack.folder.is_relative_to(STACKS) else [f"the stack {stack.name} is not orch's own"]
    is_known = all(one.sha256 or one.bundled or one.package for one in weights) or options.weights_folder is not None
    foreign += [] if is_known else ["nobody has published a digest of its weights"]
    if foreign:
        display.say(
            f"the {runtime.name} runtime runs the model as you: {' and '.join(foreign)}; --runtime docker contains it"
        )


def _find_outcome(paths: RunPaths, earlier: Mapping[str, Any], display: Display) -> Outcome | None:
    """Return the outcome of a run that is complete; None for one with work left.

    Damaged results are made again from the shards. Raises RunError where none are kept: that would predict all again.
    """
    outcome = read_outcome(paths)
    without_mask = [] if outcome is None else remove_changed_masks(outcome)
    if without_mask:
        count, size = len(without_mask), int(earlier["shard_size"])
        display.say(f"mask files that are missing or were changed: {count}; predicting their shards again")
        for path in (paths.summary, *{paths.shard(index // size) for index in without_mask}):
            remove(path)
        return None
    if outcome is not None:
        shutil.rmtree(paths.unpacked, ignore_errors=True)
        display.say(f"{paths.root} is complete already")
    elif os.path.lexists(paths.summary):
        damaged = f"{paths.summary} or {paths.predictions} is damaged or missing"
        if not any(paths.shards.glob("*.npz")):
            raise RunError(
                damaged,
                why="the shards are not kept, so it cannot be made again from them",
                hint=f"restore it, or remove {paths.summary} and run the same command again: it predicts all images",
            )
        display.say(f"{damaged}; collecting the shards again")
        paths.summary.unlink()  # whatever it is, only what is collected now may take its place
    return outcome


def _resume_choice(choice: Selection, paths: RunPaths) -> Selection:
    """Return what the first machine of a cluster chose, if this run was begun and left the choice to it."""
    variant, device = read_request_field(paths, "variant"), read_request_field(paths, "device")
    if choice.variant != AUTO or variant is None or device is None or variant == AUTO:
        return choice
    return Selection(variant, device, "as the run was begun")


def _space_needs(
    entry: ModelEntry, options: RunOptions, choice: Selection, runtime: Runtime, paths: RunPaths, new_images: int
) -> Iterator[Need]:
    """Return what a run will write to disks, so that a full one is reported before anything is fetched or built."""
    yield output_need(paths.root, new_images)
    if choice.variant != AUTO:
        yield from build_needs(entry.stack, choice.variant, runtime, options.build)
    if options.weights_folder is None:
        yield from weights_needs(entry)


def _say_inputs(display: Display, inputs: InputSet) -> None:
    parts = [count_of(len(inputs.images), "image")]
    if inputs.images.unreadable:
        parts.append(f"{inputs.images.unreadable} of them cannot be read")
    if inputs.skipped:
        reasons = Counter(skipped.reason for skipped in inputs.skipped)
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        parts.append(f"{len(inputs.skipped)} other files skipped ({listed})")
    display.say("; ".join(parts))
    for note in inputs.notes:
        display.say(note)


def _get_weights(entry: ModelEntry, options: RunOptions, display: Display) -> dict[str, Stored]:
    if options.weights_folder is not None:
        return weights_in(entry, options.weights_folder)
    return ensure_weights(entry, offline=options.offline, progress=display.transfer)


def _build(
    entry: ModelEntry, options: RunOptions, choice: Selection, runtime: Runtime, sharing: Sharing, display: Display
) -> Prepared:
    """Build the variant unless another machine chooses it later. Raises BuildError, MachineError."""
    if choice.variant == AUTO:
        return make_placeholder(entry.stack, runtime.name)
    with sharing.building():
        prepared = runtime.prepare(entry.stack, choice.variant, options.build, display.detail)
    if prepared.fresh:
        display.say(f"built {prepared.location} in {prepared.seconds:.0f} s")
    return prepared


def _shard_size(earlier: Mapping[str, Any] | None, options: RunOptions, request: Request, inputs: InputSet) -> int:
    """Return images per shard: as asked for, else as the run was begun, else by the numbers of images and batches.

    An update with far more images would get too many shards of the size that the run was begun with.
    """
    if options.shard_size:
        return options.shard_size
    begun = (earlier or {}).get("shard_size")
    if isinstance(begun, int) and begun > 0 and len(inputs.images) <= begun * MOST_SHARDS:
        return begun
    return default_shard_size(len(inputs.images), request.batch_size)


def _notes(candidate: Candidate, choice: Selection, gpus: tuple[Gpu, ...]) -> dict[str, Any]:
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
    choice: Selection,
    gpus: tuple[Gpu, ...],
    sharing: Sharing,
    settings: ExecutorSettings,
) -> Work:
    """Return all that the executor needs."""
    entry = plan.entry
    return Work(
        plan,
        paths,
        candidate.runtime,
        options.weights_folder or weights_folder_of(entry),
        choice.devices,
        options.workers,
        options.threads or candidate.threads,
        wait=options.wait,
        leases=candidate.warm is None,
        sharing=sharing,
        workers_per_gpu=options.workers_per_gpu,
        gpus=gpus,
        build=options.build,
        limits=options.limits,
        batch_timeout=options.batch_timeout,
        settings=settings,
    )
