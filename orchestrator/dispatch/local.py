"""The local executor: the process of `orch run` starts and watches workers on this machine."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence

from orchestrator.catalog import ModelEntry
from orchestrator.dispatch.batch_timer import make_batch_limits
from orchestrator.dispatch.dispatcher import Dispatcher, DispatchResult
from orchestrator.dispatch.executors import NoSettings, Work, refuse_active_submission
from orchestrator.dispatch.launcher import Launcher, readable_images
from orchestrator.dispatch.outcome import Outcome, finish
from orchestrator.dispatch.scheduler import sort_largest_first
from orchestrator.dispatch.shard_intake import ShardIntake, find_left_outs, remove_job_folders
from orchestrator.dispatch.slots import LeasedSlots, OwnedSlots, Slots, assign_devices, describe_busy_gpus
from orchestrator.dispatch.submitter import Submission
from orchestrator.hardware import Gpu, Selection, cores, gpus_for
from orchestrator.paths import RunPaths
from orchestrator.plan import Plan, missing_shards
from orchestrator.runtimes import OUT_SIZE, select_variant
from orchestrator.system import Display, call_on_signal

CHECKS = "orchestrator.predictions.shard_check"


class LocalExecutor:
    """Starts all workers on this machine."""

    settings_type = NoSettings
    submitter = None

    def select(self, entry: ModelEntry, variant: str | None, device: str | None) -> tuple[Selection, tuple[Gpu, ...]]:
        """Select the variant that fits this machine; also return its GPUs. Raises UsageError, MachineError."""
        present = gpus_for(entry.stack, device, variant)
        return select_variant(entry.stack, variant, device, present, entry.spec.gpu_memory), present

    def execute(self, work: Work, display: Display) -> Outcome:
        """Predict the missing shards, then collect all. Raises UsageError, Interrupted, RunError, MachineError."""
        refuse_active_submission(work.paths)
        for line in describe_busy_gpus(work.devices, work.gpus) if work.leases else ():
            display.say(line)
        with work.sharing.predicting(work.plan.request.device):
            dispatched = predict_missing(work, display)
        return finish(work.plan, work.paths, dispatched)

    def is_active(self, submission: Submission) -> bool:
        """Return False: nothing is submitted."""
        del submission
        return False


def predict_missing(work: Work, display: Display) -> DispatchResult:
    """Predict the shards that are not on disk. Raises Interrupted, RunError, MachineError."""
    plan, paths, runtime = work.plan, work.paths, work.runtime
    for folder in (paths.shards, paths.logs, paths.jobs):
        folder.mkdir(parents=True, exist_ok=True)
    intake = ShardIntake(plan, paths)
    missing = take_leftovers(intake, plan, paths)
    runtime.reap(paths.key, paths.jobs)
    remove_job_folders(paths.jobs)
    paths.jobs.mkdir(exist_ok=True)
    already = len(plan.inputs.images) - sum(plan.size_of(shard) for shard in missing)
    if not missing:
        return DispatchResult((), 0, 0.0)
    if already:
        display.say(f"resuming: {already} of {len(plan.inputs.images)} images are done")
    free = {gpu.device: gpu.memory if gpu.free is None else gpu.free for gpu in work.gpus}
    needed = plan.entry.spec.gpu_memory
    devices, workers = assign_devices(work.devices, work.workers, work.workers_per_gpu, free, needed)
    at_once = min(workers, len(missing))
    threads = work.threads or max(1, cores() // at_once)
    images = readable_images(plan, paths, runtime, display.say)
    launcher = Launcher(
        plan, paths, runtime, devices, threads, work.weights, images=images, workers=at_once, say=display.say
    )
    shards = sort_largest_first(missing, plan.bytes_of)
    out_size = launcher.limits.out_size or OUT_SIZE
    batches = make_batch_limits(plan, work.batch_timeout)
    dispatcher = Dispatcher(paths, launcher.start, display, shards, images.images_of, intake, out_size, batches)
    # Checking shards needs numpy, whose import takes a while: it is imported while the workers start.
    threading.Thread(target=importlib.import_module, args=(CHECKS,), daemon=True).start()
    try:
        with call_on_signal(dispatcher.interrupt):
            return dispatcher.run(make_slots(work, devices, workers, display), len(plan.inputs.images), already)
    finally:
        runtime.reap(paths.key, paths.jobs)  # what could not be removed while the engine was away


def take_leftovers(intake: ShardIntake, plan: Plan, paths: RunPaths) -> list[int]:
    """Take what workers of an interrupted run finished, and return the shards that are missing then."""
    missing = missing_shards(plan, paths)
    outs = find_left_outs(paths)
    if not outs or not missing:
        return missing
    return intake.take_leftovers(outs, missing)


def make_slots(work: Work, devices: Sequence[str], workers: int, display: Display) -> Slots:
    """Return the slots for workers: leased ones on GPUs, unconditional ones on the CPU."""
    if not work.leases or set(devices) == {"cpu"}:
        return OwnedSlots(workers, devices)
    what = f"{work.plan.entry.name} into {work.paths.root}"
    return LeasedSlots(workers, devices, what, display, wait=work.wait, most_gpus=work.sharing.most_gpus)
