"""Start the workers of a run: write their job folders and have the runtime start them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.paths import RunPaths, worker_cache_folder
from orchestrator.plan.plan import Plan
from orchestrator.plan.shards import attribute_columns
from orchestrator.runtimes.base import Runtime, Worker, WorkerSpec
from orchestrator.runtimes.guest_contract import OUT_NAME, job_document, write_job, writing_job

RUNNER = "orch_runner"


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
    ) -> None:
        self._label = label or plan.run_id()
        """What the runtime finds these workers by: the id of the run, or of its one task."""
        self._plan, self._paths, self._runtime, self._devices = plan, paths, runtime, devices
        self._threads, self._weights = threads, weights
        self._data = paths.jobs / "data"
        self._data.mkdir(parents=True)
        for number, root in enumerate(plan.inputs.roots):
            (self._data / str(number)).symlink_to(root)

    def start(self, slot: int, name: str, job: Path) -> Worker:
        """Start the runner on the queue in the folder `job`, on the slot's device. Raises MachineError."""
        folder = self._paths.job_folder(name)
        with writing_job(folder) as tree:
            tree.make_folder(f"{folder.name}/{OUT_NAME}", self._runtime.worker_owner())
        return self.start_program(RUNNER, name, job, job / OUT_NAME, slot)

    def start_program(self, module: str, name: str, job: Path, out: Path, slot: int = 0) -> Worker:
        """Start one of the runner's programs, which writes its results to the folder `out`. Raises MachineError."""
        plan = self._plan
        cache = worker_cache_folder(plan.entry.stack.name, plan.request.variant)
        for folder in (cache, self._weights, self._paths.logs):
            folder.mkdir(parents=True, exist_ok=True)
        spec = WorkerSpec(
            run=self._label,
            name=name,
            job=job,
            data=self._data,
            roots=plan.inputs.roots,
            weights=self._weights,
            out=out,
            cache=cache,
            log=self._paths.worker_log(name),
            threads=self._threads,
            device=self._devices[slot % len(self._devices)],
            module=module,
        )
        guest_paths = self._runtime.guest_paths(plan.prepared, spec)
        document = job_document(job_settings(plan, self._threads), name, guest_paths)
        write_job(self._paths.job_folder(name), document)
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
        "image_scores": plan.has_pictures,
    }
