"""The local executor: workers on this machine, fed and watched by the process that was asked for the run."""

from __future__ import annotations

import importlib
import shutil
import threading

from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.dispatcher import Dispatched, Dispatcher
from orchestrator.dispatch.executors import Work
from orchestrator.dispatch.launcher import Launcher
from orchestrator.dispatch.scheduler import dear_first
from orchestrator.dispatch.slots import LeasedPlaces, OwnPlaces, Places
from orchestrator.dispatch.slurm.executor import refuse_while_under_way
from orchestrator.hardware import Gpu, Selection, cores, gpus_for
from orchestrator.plan.shards import missing_shards
from orchestrator.runtimes.built import select_variant
from orchestrator.system.display import Display
from orchestrator.system.signals import call_on_signal


class LocalExecutor:
    """Starts every worker here, by the runtime's own means."""

    def choose(self, entry: ModelEntry, variant: str | None, device: str | None) -> tuple[Selection, tuple[Gpu, ...]]:
        """The variant that fits this machine, and its GPUs. Raises UsageError, MachineError."""
        present = gpus_for(entry.stack, device, variant)
        return select_variant(entry.stack, variant, device, present, entry.spec.gpu_memory), present

    def dispatch(self, work: Work, display: Display) -> Dispatched:
        """Have the shards that are missing predicted. Raises Interrupted, RunError, MachineError."""
        plan, paths, runtime = work.plan, work.paths, work.runtime
        refuse_while_under_way(paths)
        for folder in (paths.shards, paths.logs, paths.jobs):
            folder.mkdir(parents=True, exist_ok=True)
        runtime.reap(plan.run_id(), paths.jobs)
        shutil.rmtree(paths.jobs)
        paths.jobs.mkdir()
        missing = missing_shards(plan, paths)
        already = len(plan.inputs.images) - sum(plan.size_of(shard) for shard in missing)
        if not missing:
            return Dispatched((), 0, 0.0)
        if already:
            display.say(f"resuming: {already} of {len(plan.inputs.images)} images are done")
        threads = work.threads or max(1, cores() // min(work.workers, len(missing)))
        launcher = Launcher(plan, paths, runtime, work.devices, threads, work.weights)
        ordered = dear_first(missing, plan.bytes_of)
        dispatcher = Dispatcher(paths, launcher.start, display, ordered, plan.images_of)
        # What collecting needs (numpy) takes a while to import: best done while the workers start.
        threading.Thread(
            target=importlib.import_module, args=("orchestrator.predictions.collect",), daemon=True
        ).start()
        try:
            with call_on_signal(dispatcher.interrupt):
                return dispatcher.run(places_of(work, display), len(plan.inputs.images), already)
        finally:
            runtime.reap(plan.run_id(), paths.jobs)  # what could not be removed while the engine was away


def places_of(work: Work, display: Display) -> Places:
    """Places on GPUs are leased, those on the CPU are the run's own."""
    if not work.leases or set(work.devices) == {"cpu"}:
        return OwnPlaces(work.workers, work.devices)
    what = f"{work.plan.entry.name} into {work.paths.root}"
    return LeasedPlaces(work.workers, work.devices, what, display, wait=work.wait, most_gpus=work.most_gpus)
