"""Names of all files: those of a run, and those that orch keeps between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path, user_config_path

from orchestrator.system.guest_tree import GuestTree


def home() -> Path:
    """Return the cache that all runs share: $ORCH_HOME, else the platform's cache folder."""
    chosen = os.environ.get("ORCH_HOME")
    return Path(chosen).expanduser().resolve() if chosen else user_cache_path("orch")


def weights_folder(stack: str, model: str) -> Path:
    """Return the folder of a model's weights."""
    return home() / "weights" / stack / model


def environments_folder() -> Path:
    """Return the folder of the venv runtime's environments."""
    return home() / "envs"


def worker_cache_folder(stack: str, variant: str, owner: tuple[int, int] | None = None) -> Path:
    """Return the folder that workers of a variant keep between runs: compiled kernels, optimised graphs.

    Workers that run as another user than the caller, `owner`, have folders of their own.
    """
    suffix = "" if owner is None else f"-uid{owner[0]}"
    return home() / "worker-cache" / f"{stack}-{variant}{suffix}"


def images_folder() -> Path:
    """Return the folder of image archives and Apptainer's SIF files: $ORCH_IMAGES, else in the cache."""
    chosen = os.environ.get("ORCH_IMAGES")
    return Path(chosen).expanduser().resolve() if chosen else home() / "images"


def leases_folder() -> Path:
    """Return the folder of lock files of GPUs."""
    return home() / "leases"


def spool_folder() -> Path:
    """Return the folder shared with the warm workers of `orch up`: $ORCH_SPOOL, else in the cache."""
    chosen = os.environ.get("ORCH_SPOOL")
    return Path(chosen).expanduser().absolute() if chosen else home() / "spool"


def build_logs_folder() -> Path:
    """Return the folder of build logs."""
    return home() / "logs"


def user_stacks_folder() -> Path:
    """Return the folder of the user's own stacks."""
    return user_config_path("orch") / "stacks"


def user_executor_settings(executor: str) -> Path:
    """Return the file with the user's settings of an executor, for all runs; it need not exist."""
    return user_config_path("orch") / f"{executor}.yaml"


@dataclass(frozen=True)
class GuestFolder:
    """A folder that a guest can write: its name below `root`, a folder whose own path the guest cannot change."""

    root: Path
    name: str


@dataclass(frozen=True)
class RunPaths:
    """Paths of all files of one run directory."""

    root: Path
    spooled: Path | None = field(default=None, kw_only=True)
    """Prefix of the workers' job folders where they are in a warm worker's spool instead of the run directory."""
    spool_root: Path | None = field(default=None, kw_only=True)
    """With `spooled`: the folder that is mounted into warm workers, who can change all below it."""

    @property
    def run_json(self) -> Path:
        """The request and everything resolved."""
        return self.root / "run.json"

    @property
    def inputs(self) -> Path:
        """One JSON object per input image, in order."""
        return self.root / "inputs.jsonl"

    @property
    def unpacked(self) -> Path:
        """Images unpacked from archives; removed when the run is complete."""
        return self.root / "unpacked"

    @property
    def masks(self) -> Path:
        """Probability pictures, one per image, for tasks that have them."""
        return self.root / "masks"

    @property
    def shards(self) -> Path:
        """Finished shards, checked, and parts of others; no worker sees this folder."""
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
        """Lock file of the one process that writes here."""
        return self.root / ".lock"

    @property
    def claims(self) -> Path:
        """Claims of shards, for runs that tasks on several machines share."""
        return self.root / "claims"

    @property
    def tasks(self) -> Path:
        """One record per attempt of a cluster task: node, state, error."""
        return self.root / "tasks"

    @property
    def task_events(self) -> Path:
        """Events of cluster tasks, one file per attempt: no file has writers on two machines."""
        return self.root / "events"

    @property
    def work(self) -> Path:
        """What a cluster task needs beyond run.json."""
        return self.root / "work.json"

    def submission(self, executor: str) -> Path:
        """Return the file with the submitted job and its settings."""
        return self.root / f"{executor}.json"

    @property
    def job_script(self) -> Path:
        """The script that was submitted."""
        return self.root / "job.sh"

    @property
    def cancelled(self) -> Path:
        """Marks a cancelled run: its tasks do not requeue themselves."""
        return self.root / "cancelled"

    def shard(self, number: int) -> Path:
        """Return the path of the finished shard `number`."""
        return self.shards / f"{number:05d}.npz"

    def part(self, number: int) -> Path:
        """Return the path of the finished beginning of the shard `number`."""
        return self.shards / f"{number:05d}.part.npz"

    def worker_log(self, worker: str) -> Path:
        """Return the log of a worker's stderr."""
        return self.logs / f"{worker}.log"

    def job(self, worker: str) -> Path:
        """Return a worker's job folder, which is mounted read-only."""
        return self.jobs / worker if self.spooled is None else Path(f"{self.spooled}-{worker}")

    def job_folder(self, worker: str) -> GuestFolder:
        """Return a worker's job folder as GuestTree reaches it."""
        if self.spool_root is None or self.spooled is None:
            return GuestFolder(self.jobs, worker)
        return GuestFolder(self.spool_root, f"{self.spooled.relative_to(self.spool_root).as_posix()}-{worker}")

    def out(self, worker: str) -> GuestFolder:
        """Return a worker's own folder for results."""
        if self.spool_root is None:
            return GuestFolder(self.job(worker), "out")
        job = self.job_folder(worker)
        return GuestFolder(job.root, f"{job.name}/out")

    def left_outs(self) -> list[GuestFolder]:
        """Return the out folders of all workers whose job folders are there."""
        jobs = self.job_folder("")
        folder, _, first = jobs.name.rpartition("/")
        try:
            with GuestTree(jobs.root) as tree:
                names = tree.names(folder)
        except OSError:
            return []
        return [self.out(name.removeprefix(first)) for name in names if name.startswith(first) and name != "data"]


@dataclass(frozen=True)
class TaskPaths(RunPaths):
    """Paths private to one attempt of a cluster task."""

    task: str
    scratch: Path
    """Folder on the node's own disk: queues are listed too often for a network file system."""

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
        """The record of this attempt."""
        return self.tasks / f"{self.task}.json"

    def worker_log(self, worker: str) -> Path:
        """Return the log of a worker's stderr."""
        return self.logs / f"{self.task}-{worker}.log"
