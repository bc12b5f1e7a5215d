"""The Slurm executor: one job array whose tasks take shards of the run directory on the shared file system."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.dispatcher import Dispatched
from orchestrator.dispatch.executors import Work
from orchestrator.dispatch.shared.work_file import Crew, record_work
from orchestrator.dispatch.slurm.commands import queued, require_slurm, submit
from orchestrator.dispatch.slurm.settings import Job, job_script
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import Gpu, Selection, choose_variant
from orchestrator.hardware.devices import device_kind
from orchestrator.paths import RunPaths, home
from orchestrator.plan.request import AUTO
from orchestrator.plan.shards import missing_shards
from orchestrator.system.display import Display
from orchestrator.system.files import write_json, write_text

_HANDED_ON = ("ORCH_BASE_IMAGE", "ORCH_DOCKER", "ORCH_IMAGES")


class SlurmExecutor:
    """Hands the run to Slurm, which schedules, requeues and accounts. The tasks collect."""

    def choose(self, entry: ModelEntry, variant: str | None, device: str | None) -> tuple[Selection, tuple[Gpu, ...]]:
        """What can be known on a login node: the nodes' GPUs are not seen from here. Raises UsageError."""
        stack = entry.stack
        if device is not None and device != device_kind(device):
            raise UsageError(f"--device {device}: Slurm deals out the GPUs", hint="--device cuda, or leave it out")
        variants = stack.spec.variants
        uses_gpu = variant is not None and variant in variants and variants[variant].device == "cuda"
        if variant is not None and uses_gpu and device in (None, "cuda"):
            return Selection(variant, "cuda", "asked for; checked on the nodes"), ()
        uses_gpus = any(one.device == "cuda" for one in variants.values())
        if variant is None and uses_gpus and device in (None, "cuda"):
            return Selection(AUTO, device or AUTO, "chosen by the first task, on its node"), ()
        return choose_variant(stack, variant, device, ()), ()

    def dispatch(self, work: Work, display: Display) -> Dispatched | None:
        """Submit one array for the shards that are missing, unless it is under way. Raises MachineError."""
        require_slurm()
        paths = work.paths
        job = recorded_job(paths)
        under_way = [] if job is None else queued(job)
        if under_way is None:
            raise MachineError("Slurm does not answer", why=f"job {job} may be under way", hint="sinfo")
        if under_way:
            display.say(f"job {job} is under way")
            return None
        missing = missing_shards(work.plan, paths)
        if not missing:
            return Dispatched((), 0, 0.0)
        for number in missing:  # tasks take a file of that name for a whole one
            paths.shard(number).unlink(missing_ok=True)
        done = len(work.plan.shards) - len(missing)
        if done:
            display.say(f"resuming: {done} of {len(work.plan.shards)} shards are done")
        crew = Crew(work.asked_workers, work.workers_per_gpu, work.threads)
        record_work(paths, work.plan, work.weights, work.build, crew, work.slurm.lease)
        paths.cancelled.unlink(missing_ok=True)
        for claim in paths.claims.glob("*"):  # of tasks that were killed: nobody has to wait for their lease
            claim.unlink(missing_ok=True)
        _submit(work, len(missing), display)
        return None


def recorded_job(paths: RunPaths) -> str | None:
    """The number of the job that was submitted last for a run; None if there is none."""
    document = submission(paths)
    return None if document is None else str(document["job"])


def refuse_while_under_way(paths: RunPaths) -> None:
    """Raises UsageError while a cluster carries the run out: one that is resumed here would write the same files."""
    job = recorded_job(paths)
    if job is not None and queued(job):
        raise UsageError(f"{paths.root} is under way as job {job}", hint=f"orch attach {paths.root}")


def submission(paths: RunPaths) -> dict[str, Any] | None:
    """What slurm.json says; None if the run was never handed to Slurm."""
    try:
        document = json.loads(paths.submission.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "job" in document else None


def _submit(work: Work, missing: int, display: Display) -> None:
    paths, options = work.paths, work.slurm
    for folder in (paths.shards, paths.logs, paths.tasks, paths.task_events, paths.claims):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {"ORCH_HOME": str(home()), **{name: os.environ[name] for name in _HANDED_ON if name in os.environ}}
    name = f"orch-{work.plan.entry.name}-{work.plan.run_id()}"
    tasks = min(options.tasks, missing)
    uses_gpu = work.plan.request.device != "cpu"
    # Not resolved: the interpreter of a virtual environment is a link, and what it is called is what makes it one.
    python = Path(os.path.abspath(sys.executable))
    job = Job(name, paths.root, tasks, uses_gpu, python, environment)
    write_text(paths.job_script, job_script(job, options))
    number = submit(paths.job_script)
    document = {"job": number, "tasks": tasks, "submitted": time.time(), "options": options.model_dump(mode="json")}
    write_json(paths.submission, document)
    display.say(f"submitted job {number}: {tasks} tasks for {missing} shards")
