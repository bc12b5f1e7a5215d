"""The Slurm executor: a job array whose tasks share a run directory on a shared file system."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from orchestrator.catalog import ModelEntry
from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.executors import SUBMISSION_FORMAT, Work, find_submission
from orchestrator.dispatch.outcome import Outcome, finish
from orchestrator.dispatch.shared.work_file import WorkersPerTask, write_work_file
from orchestrator.dispatch.slurm import commands
from orchestrator.dispatch.slurm.array_task import read_array_task
from orchestrator.dispatch.slurm.settings import ArrayJob, SlurmSettings, make_job_script
from orchestrator.dispatch.submitter import QueuedTask, Submission, TaskAttempt
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import Gpu, Selection, choose_variant, device_kind
from orchestrator.paths import RunPaths, home
from orchestrator.plan import AUTO, missing_shards
from orchestrator.system import Display, count_of, write_json, write_text

NAME = "slurm"
STOP_SECONDS = 45.0
"""How long `orch cancel` waits for tasks to stop, first after SIGTERM, then after scancel."""
_EXPORTED = ("ORCH_BASE_IMAGE", "ORCH_DOCKER", "ORCH_IMAGES")


class SlurmExecutor:
    """Submits the run as a job array. Slurm schedules, requeues and accounts; the tasks predict and collect."""

    settings_type = SlurmSettings

    @property
    def submitter(self) -> SlurmExecutor:
        """The cluster is reached through this object too."""
        return self

    def select(self, entry: ModelEntry, variant: str | None, device: str | None) -> tuple[Selection, tuple[Gpu, ...]]:
        """Select what a login node can: it does not see the nodes' GPUs. Raises UsageError, MachineError."""
        if device is not None and device != device_kind(device):
            raise UsageError(f"--device {device}: Slurm assigns the GPUs", hint="--device cuda, or no --device")
        gpu_variants = [name for name, spec in entry.stack.spec.variants.items() if spec.device == "cuda"]
        if device in (None, "cuda"):
            if variant is not None and variant in gpu_variants:
                return Selection(variant, "cuda", "asked for; checked on the nodes"), ()
            if variant is None and gpu_variants:
                return Selection(AUTO, device or AUTO, "chosen by the first task, on its node"), ()
        return choose_variant(entry.stack, variant, device, ()), ()

    def execute(self, work: Work, display: Display) -> Outcome:
        """Submit one array for the missing shards, unless one is active. Raises MachineError."""
        commands.require_slurm()
        submission = find_submission(work.paths)
        is_active = False if submission is None else self.is_active(submission)
        if submission is not None and is_active is None:
            raise MachineError("Slurm does not answer", why=f"job {submission.job} may still be active", hint="sinfo")
        submitted = Outcome(work.paths, {})
        if submission is not None and is_active:
            display.say(f"job {submission.job} is already active")
            return submitted
        missing = missing_shards(work.plan, work.paths)
        if not missing:
            return finish(work.plan, work.paths, DispatchResult((), 0, 0.0))
        done = len(work.plan.shards) - len(missing)
        if done:
            display.say(f"resuming: {done} of {len(work.plan.shards)} shards are done")
        with work.sharing.predicting(NAME):
            _submit(work, missing, display)
        return submitted

    def is_active(self, submission: Submission) -> bool | None:
        """Return whether tasks of the job are not over; None while Slurm does not answer."""
        tasks = commands.list_tasks(submission.job)
        return None if tasks is None else bool(tasks)

    def require_commands(self) -> None:
        """Raise MachineError unless Slurm's commands are on this machine."""
        commands.require_slurm()

    def find_attempt(self) -> TaskAttempt | None:
        """Return the array task that this process is; None outside of a Slurm job."""
        return read_array_task(os.environ)

    def list_tasks(self, job: str) -> list[QueuedTask] | None:
        """Return the tasks that are not over, by index; None while Slurm does not answer."""
        return commands.list_tasks(job)

    def explain_end(self, job: str) -> str:
        """Point to Slurm's accounting."""
        return f"Slurm ended them; sacct -j {job} may say why"

    def requeue(self, job: str) -> str | None:
        """Requeue a running task. Return why not: a task that a person ended with scancel must not start again."""
        # The state of such a task is not RUNNING any more when its SIGTERM arrives.
        state = commands.read_state(job)
        return commands.requeue(job) if state == "RUNNING" else f"its state is {state or 'unknown'}"

    def cancel_waiting(self, job: str) -> None:
        """End the tasks that have not started. Raises MachineError."""
        commands.end_job(job, pending=True)

    def cancel(self, paths: RunPaths, job: str, display: Display) -> None:
        """End all tasks: by SIGTERM, so that they finish the images they work on, then by scancel."""
        commands.require_slurm()
        paths.cancelled.touch()
        commands.end_job(job, pending=True)
        commands.send_sigterm(job)
        display.say("stopping after the images that are being predicted")
        if _wait_until_over(job, STOP_SECONDS):
            return
        commands.end_job(job)
        if not _wait_until_over(job, STOP_SECONDS):
            raise MachineError(f"job {job} is still there", why="Slurm has not ended it yet", hint=f"squeue -j {job}")


def _wait_until_over(job: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while commands.list_tasks(job) != []:
        if time.monotonic() > until:
            return False
        time.sleep(1)
    return True


def _submit(work: Work, missing: list[int], display: Display) -> None:
    """Write all that the tasks need, and submit the job script. Raises MachineError."""
    paths, settings = work.paths, work.settings
    assert isinstance(settings, SlurmSettings), "Work.settings is of the executor's settings_type"
    for shard in missing:  # tasks take a file of that name for a whole shard
        paths.shard(shard).unlink(missing_ok=True)
    workers = WorkersPerTask(work.workers, work.workers_per_gpu, work.threads, work.limits, work.batch_timeout)
    write_work_file(paths, work.plan, work.weights, work.build, workers, settings.lease)
    paths.cancelled.unlink(missing_ok=True)
    for claim in paths.claims.glob("*"):  # of killed tasks: new tasks need not wait for their leases
        claim.unlink(missing_ok=True)
    for folder in (paths.shards, paths.logs, paths.tasks, paths.task_events, paths.claims):
        folder.mkdir(parents=True, exist_ok=True)
    job = _make_job(work, min(settings.tasks, len(missing)))
    write_text(paths.job_script, make_job_script(job, settings))
    number = commands.submit(paths.job_script)
    options = settings.model_dump(mode="json")
    document = {
        "format": SUBMISSION_FORMAT,
        "job": number,
        "tasks": job.tasks,
        "submitted": time.time(),
        "options": options,
    }
    write_json(paths.submission(NAME), document)
    display.say(f"submitted job {number}: {count_of(job.tasks, 'task')} for {count_of(len(missing), 'shard')}")


def _make_job(work: Work, tasks: int) -> ArrayJob:
    return ArrayJob(
        name=f"orch-{work.plan.entry.name}-{work.plan.run_id()}",
        root=work.paths.root,
        tasks=tasks,
        uses_gpu=work.plan.request.device != "cpu",
        # Not resolved: the interpreter of a virtual environment is a link, and its own path makes it one.
        python=Path(os.path.abspath(sys.executable)),
        environment={"ORCH_HOME": str(home()), **{key: os.environ[key] for key in _EXPORTED if key in os.environ}},
    )
