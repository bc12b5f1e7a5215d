"""Starting the workers of a run: writes job folders and has the runtime start what they describe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.catalog.spec import MANIPULATION
from orchestrator.paths import RunPaths, worker_cache_folder
from orchestrator.plan.plan import MAX_PIXELS, Plan
from orchestrator.runtimes.base import Runtime, Worker, WorkerSpec
from orchestrator.runtimes.guest_contract import JOB_NAME, WorkerSettings, job_document
from orchestrator.system.files import write_json

RUNNER = "orch_runner"


class Launcher:
    """Starts workers of one plan, the replacements too."""

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
        """By what the runtime finds these workers again: the run, or its one task."""
        self._plan, self._paths, self._runtime, self._devices = plan, paths, runtime, devices
        self._threads, self._weights = threads, weights
        self._data = paths.jobs / "data"
        self._data.mkdir(parents=True)
        for number, root in enumerate(plan.inputs.roots):
            (self._data / str(number)).symlink_to(root)

    def start(self, place: int, name: str, job: Path) -> Worker:
        """Start the runner on the queue in the folder `job`, on the device of its place. Raises MachineError."""
        return self.start_program(RUNNER, name, job, self._paths.shards, place)

    def start_program(self, module: str, name: str, job: Path, out: Path, place: int = 0) -> Worker:
        """Start one of the runner's programs, its results going to `out`. Raises MachineError."""
        plan = self._plan
        cache = worker_cache_folder(plan.entry.stack.name, plan.request.variant)
        for folder in (cache, self._weights, out, self._paths.logs):
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
            device=self._devices[place % len(self._devices)],
            module=module,
        )
        settings = worker_settings(plan, self._threads)
        document = job_document(settings, name, self._runtime.guest_paths(plan.prepared, spec))
        write_json(job / JOB_NAME, document, durable=False)
        return self._runtime.start(plan.prepared, spec)


def worker_settings(plan: Plan, threads: int) -> WorkerSettings:
    """What every worker of the run is told."""
    request, spec = plan.request, plan.entry.spec
    return WorkerSettings(
        run=plan.run_id(),
        plan=plan.digest(),
        predictor=plan.entry.stack.spec.predictor,
        model=plan.entry.name,
        task=spec.task,
        settings=request.settings,
        config=spec.config,
        weights={key: stored.as_job() for key, stored in plan.weights.items()},
        native=plan.native(),
        device=request.device,
        exif=request.exif,
        score_threshold=request.score_threshold,
        max_detections=request.max_detections,
        max_pixels=MAX_PIXELS,
        batch_size=request.batch_size,
        threads=threads,
        readers=max(2, threads),
        attributes=len(plan.entry.taxonomy.attributes) if spec.defaults.attributes else 0,
        image_scores=spec.task == MANIPULATION,
    )
