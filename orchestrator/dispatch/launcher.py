"""Start the workers of a run: write their job folders and have the runtime start them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.paths import RunPaths, worker_cache_folder
from orchestrator.plan import Plan, attribute_columns
from orchestrator.runtimes import (
    OUT_NAME,
    ReadableImages,
    Runtime,
    Worker,
    WorkerSpec,
    ensure_worker_cache,
    job_document,
    readable_weights,
    write_job,
    writing_job,
)
from orchestrator.system import Report

RUNNER = "orch_runner"
_COPIES_NAME = "readable"
"""Folder, beside the job folders, of copies of what workers cannot read."""


def readable_images(plan: Plan, paths: RunPaths, runtime: Runtime, say: Report) -> ReadableImages:
    """Return the images of a run as the runtime's workers see them."""
    folder, owner = paths.jobs / _COPIES_NAME, runtime.worker_owner()
    return ReadableImages(
        plan.inputs.roots, plan.images_of, owner, folder, lambda number: paths.shard(number).exists(), say
    )


class Launcher:
    """Starts the workers of one plan, their replacements too."""

    def __init__(
        self,
        plan: Plan,
        paths: RunPaths,
        runtime: Runtime,
        devices: Sequence[str],
        threads: int,
        weights: Path,
        label: str | None = None,
        *,
        images: ReadableImages | None = None,
        workers: int = 1,
        say: Report = lambda line: None,
    ) -> None:
        """`images`: as workers see them, None: as they are; `workers`: how many run at once. Raises MachineError."""
        self._label = label or paths.key
        """What the runtime finds these workers by, and no other run's: the key of the run directory, or of a task."""
        self._plan, self._paths, self._runtime, self._devices = plan, paths, runtime, devices
        self._threads, self._owner = threads, runtime.worker_owner()
        self._roots = plan.inputs.roots if images is None else images.roots
        self._weights = readable_weights(weights, self._owner, paths.jobs / _COPIES_NAME, say)
        self.limits = runtime.limits_in_force(workers)
        self._data = paths.jobs / "data"
        self._data.mkdir(parents=True)
        for number, root in enumerate(self._roots):
            (self._data / str(number)).symlink_to(root)

    def start(self, slot: int, name: str, job: Path, module: str = RUNNER) -> Worker:
        """Start the runner on the queue in the folder `job`, on the slot's device. Raises MachineError.

        `module`: the program, which writes its results to the folder `out` in `job`.
        """
        job_folder = self._paths.job_folder(name)
        with writing_job(job_folder) as tree:
            tree.make_folder(f"{job_folder.name}/{OUT_NAME}", self._owner)
        plan = self._plan
        cache = worker_cache_folder(plan.entry.stack.name, plan.request.variant, self._owner)
        ensure_worker_cache(cache, self._owner)
        for folder in (self._weights, self._paths.logs):
            folder.mkdir(parents=True, exist_ok=True)
        spec = WorkerSpec(
            run=self._label,
            name=name,
            job=job,
            data=self._data,
            roots=self._roots,
            weights=self._weights,
            out=job / OUT_NAME,
            cache=cache,
            log=self._paths.worker_log(name),
            threads=self._threads,
            device=self._devices[slot % len(self._devices)],
            module=module,
            limits=self.limits,
        )
        guest_paths = self._runtime.guest_paths(plan.prepared, spec)
        document = job_document(job_settings(plan, self._threads), name, guest_paths)
        write_job(job_folder, document)
        return self._runtime.start(plan.prepared, spec)


def job_settings(plan: Plan, threads: int) -> dict[str, Any]:
    """Return what job.json tells every worker of the run."""
    entry, spec = plan.entry, plan.entry.spec
    return {
        "run": plan.run_id(),
        "plan": plan.digest(),
        "predictor": entry.stack.spec.predictor,
        "model": {
            "name": entry.name,
            "architecture": entry.architecture,
            "task": spec.task,
            "settings": dict(plan.request.settings),
            "config": spec.config,
            "weights": {key: stored.as_job() for key, stored in plan.weights.items()},
        },
        "native": plan.native(),
        **plan.request.for_worker(),
        "threads": threads,
        "readers": max(2, threads),
        "attributes": attribute_columns(plan),
        "image_scores": plan.task.has_image_scores,
        "masks": plan.task.has_masks,
        "pixels": plan.task.pixels,
    }
