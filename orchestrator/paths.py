"""The names of all files: those of a run, and those orch keeps between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path, user_config_path


def home() -> Path:
    """The cache that all runs share: $ORCH_HOME, else the platform's cache folder."""
    chosen = os.environ.get("ORCH_HOME")
    return Path(chosen).expanduser().resolve() if chosen else user_cache_path("orch")


def weights_folder(stack: str, model: str) -> Path:
    """Where a model's weights are kept."""
    return home() / "weights" / stack / model


def environments_folder() -> Path:
    """Where the venv runtime keeps its environments."""
    return home() / "envs"


def worker_cache_folder(stack: str, variant: str) -> Path:
    """What workers of a variant keep between runs: compiled kernels, optimised graphs."""
    return home() / "worker-cache" / f"{stack}-{variant}"


def images_folder() -> Path:
    """Where image archives are looked for, and what Apptainer makes of them: $ORCH_IMAGES, else with all the rest."""
    chosen = os.environ.get("ORCH_IMAGES")
    return Path(chosen).expanduser().resolve() if chosen else home() / "images"


def leases_folder() -> Path:
    """Locks on GPUs, one file each."""
    return home() / "leases"


def spool_folder() -> Path:
    """Where hosts and the warm workers of `orch up` meet: $ORCH_SPOOL, else in the cache."""
    chosen = os.environ.get("ORCH_SPOOL")
    return Path(chosen).expanduser().absolute() if chosen else home() / "spool"


def build_logs_folder() -> Path:
    """Where logs of builds go."""
    return home() / "logs"


def user_stacks_folder() -> Path:
    """Where a user puts stacks of their own for good."""
    return user_config_path("orch") / "stacks"


def user_executor_settings(executor: str) -> Path:
    """The user's settings of an executor, for all runs; need not exist."""
    return user_config_path("orch") / f"{executor}.yaml"


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run directory."""

    root: Path
    spooled: Path | None = field(default=None, kw_only=True)
    """What the workers' job folders begin with where they lie in a spool, not in the run directory."""

    @property
    def run_json(self) -> Path:
        """What was asked and everything resolved."""
        return self.root / "run.json"

    @property
    def inputs(self) -> Path:
        """One JSON object per input image, in order."""
        return self.root / "inputs.jsonl"

    @property
    def unpacked(self) -> Path:
        """Images taken out of an archive; removed when the run is complete."""
        return self.root / "unpacked"

    @property
    def masks(self) -> Path:
        """Probability pictures, one per image, where the task gives them."""
        return self.root / "masks"

    @property
    def shards(self) -> Path:
        """The workers' output folder."""
        return self.root / "shards"

    @property
    def logs(self) -> Path:
        """One log per worker."""
        return self.root / "logs"

    @property
    def jobs(self) -> Path:
        """The workers' job folders: job.json and queue; removed when the run is complete."""
        return self.root / "jobs"

    @property
    def events(self) -> Path:
        """All workers' events, one JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def predictions(self) -> Path:
        """The result."""
        return self.root / "predictions.npz"

    @property
    def summary(self) -> Path:
        """Counts, failures, timing."""
        return self.root / "summary.json"

    @property
    def lock(self) -> Path:
        """Held by the one process that writes here."""
        return self.root / ".lock"

    @property
    def claims(self) -> Path:
        """Who works on which shard, where tasks on several machines share the run."""
        return self.root / "claims"

    @property
    def tasks(self) -> Path:
        """One record per start of a task on a cluster: where, how far, why it ended."""
        return self.root / "tasks"

    @property
    def task_events(self) -> Path:
        """The tasks' events, a file each: several machines never write one file."""
        return self.root / "events"

    @property
    def work(self) -> Path:
        """What a task needs beyond run.json to carry the run out on another machine."""
        return self.root / "work.json"

    def submission(self, executor: str) -> Path:
        """The job that an executor submitted to its cluster, and the settings of the job."""
        return self.root / f"{executor}.json"

    @property
    def job_script(self) -> Path:
        """The script that was submitted."""
        return self.root / "job.sh"

    @property
    def cancelled(self) -> Path:
        """Lies here while the run is cancelled: tasks do not have themselves requeued."""
        return self.root / "cancelled"

    def shard(self, number: int) -> Path:
        """The finished shard of that number."""
        return self.shards / f"{number:05d}.npz"

    def worker_log(self, worker: str) -> Path:
        """A worker's stderr."""
        return self.logs / f"{worker}.log"

    def job(self, worker: str) -> Path:
        """A worker's job folder, mounted read-only into it."""
        return self.jobs / worker if self.spooled is None else Path(f"{self.spooled}-{worker}")


@dataclass(frozen=True)
class TaskPaths(RunPaths):
    """The run directory as one start of a task on a cluster uses it: nobody else writes its files."""

    task: str
    scratch: Path
    """Folder on the node's own disk: queues are looked through too often for a network file system."""

    @property
    def jobs(self) -> Path:
        """The workers' job folders."""
        return self.scratch

    @property
    def events(self) -> Path:
        """The events of this task's workers."""
        return self.task_events / f"{self.task}.jsonl"

    @property
    def record(self) -> Path:
        """Where, how far, why it ended."""
        return self.tasks / f"{self.task}.json"

    def worker_log(self, worker: str) -> Path:
        """A worker's stderr."""
        return self.logs / f"{self.task}-{worker}.log"
