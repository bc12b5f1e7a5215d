"""Names of all files: those of a run, and those that orch keeps between runs."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path, user_config_path

from orchestrator.errors import UsageError


def home() -> Path:
    """Return the cache that all runs share: $ORCH_HOME, else the platform's cache folder.

    Raises UsageError where a file is in its place.
    """
    chosen = os.environ.get("ORCH_HOME")
    folder = Path(chosen).expanduser().resolve() if chosen else user_cache_path("orch").absolute()
    return _require_folder(folder, "$ORCH_HOME" if chosen else "$XDG_CACHE_HOME")


def _require_folder(folder: Path, variable: str) -> Path:
    """Return `folder`. Raises UsageError where it, or a part of its path, is a file."""
    try:
        folder.stat()
    except (FileNotFoundError, PermissionError):
        return folder
    except OSError as error:
        why = error.strerror
    else:
        if folder.is_dir():
            return folder
        why = "it is a file"
    raise UsageError(f"the cache cannot be in {folder}", why=why, hint=f"set {variable} to a folder")


def shared_home() -> Path | None:
    """Return $ORCH_SHARED_HOME, a cache that somebody else fills: what is complete there is used, never written."""
    chosen = os.environ.get("ORCH_SHARED_HOME")
    return Path(chosen).expanduser().resolve() if chosen else None


def weights_folder(stack: str, model: str, cache: Path | None = None) -> Path:
    """Return the folder of a model's weights in a cache, by default the caller's own."""
    return (cache or home()) / "weights" / stack / model


def environments_folder() -> Path:
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
    return _require_folder(Path(chosen).expanduser().resolve(), "$ORCH_IMAGES") if chosen else home() / "images"


def leases_folder() -> Path:
    """Return the folder of GPU leases, one for all users of a machine: $ORCH_LEASES, else below /tmp."""
    chosen = os.environ.get("ORCH_LEASES")
    return Path(chosen).expanduser().absolute() if chosen else Path("/tmp/orch-gpu-leases")


def spool_folder() -> Path:
    """Return the folder shared with the warm workers of `orch up`: $ORCH_SPOOL, else in the cache."""
    chosen = os.environ.get("ORCH_SPOOL")
    return _require_folder(Path(chosen).expanduser().absolute(), "$ORCH_SPOOL") if chosen else home() / "spool"


def build_logs_folder() -> Path:
    return home() / "logs"


def user_stacks_folder() -> Path:
    return user_config_path("orch") / "stacks"


def history_file() -> Path:
    """Return the list of run directories, one JSON string a line."""
    return home() / "history.jsonl"


def user_settings_file() -> Path:
    """Return the file with the user's defaults of options; it need not exist."""
    return user_config_path("orch") / "config.toml"


def user_executor_settings(executor: str) -> Path:
    """Return the file with the user's settings of an executor, for all runs; it need not exist."""
    return user_config_path("orch") / f"{executor}.yaml"


@dataclass(frozen=True)
class GuestFolder:
    """A folder that a guest can write: its name below `root`, a folder whose own path the guest cannot change."""

    root: Path
    name: str


class RunPaths:
    """Paths of all files of one run directory.

    `spooled`: prefix of the workers' job folders where they are in a warm worker's spool instead of the run directory;
    `spool_root`: then the folder that is mounted into warm workers, who can change all below it.
    """

    def __init__(self, root: Path, *, spooled: Path | None = None, spool_root: Path | None = None) -> None:
        self.root, self.spooled, self.spool_root = root, spooled, spool_root
        self.run_json = root / "run.json"  # the request and everything resolved
        self.inputs = root / "inputs.jsonl"  # one JSON object per input image, in order
        self.unpacked = root / "unpacked"  # images unpacked from archives; removed when the run is complete
        self.masks = root / "masks"  # probability pictures, one per image, for tasks that have them
        self.canvases = root / "canvas"  # the network's own masks, one per image, for runs that keep them
        self.shards = root / "shards"  # finished shards, checked, and parts of others; no worker sees this folder
        self.logs = root / "logs"  # one log per worker
        self.jobs = root / "jobs"  # the workers' job folders: job.json and queue; removed when the run is complete
        self.events = root / "events.jsonl"  # all workers' events, one JSON object a line
        self.predictions = root / "predictions.npz"
        self.update = root / "update"  # a prepared update of the run, until it is put into place
        self.summary = root / "summary.json"  # counts, failures, timing
        self.lock = root / ".lock"  # held by the one process that writes here
        self.claims = root / "claims"  # claims of shards, for runs that tasks on several machines share
        self.tasks = root / "tasks"  # one record per attempt of a cluster task: node, state, error
        self.task_events = root / "events"  # events of cluster tasks: no file has writers on two machines
        self.work = root / "work.json"  # what a cluster task needs beyond run.json
        self.job_script = root / "job.sh"  # the script that was submitted
        self.cancelled = root / "cancelled"  # marks a cancelled run: its tasks do not requeue themselves

    @property
    def key(self) -> str:
        """Twelve digits of this run directory, its user and machine: workers with it as their label are this run's."""
        named = f"{socket.gethostname()}\0{os.getuid()}\0{os.path.realpath(self.root)}"
        return hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()[:12]

    def submission(self, executor: str) -> Path:
        """Return the file with the submitted job and its settings."""
        return self.root / f"{executor}.json"

    def shard(self, number: int) -> Path:
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


class TaskPaths(RunPaths):
    """Paths private to one attempt of a cluster task.

    `scratch` is on the node's own disk: queues are listed too often for a network file system.
    """

    def __init__(self, root: Path, task: str, scratch: Path) -> None:
        super().__init__(root)
        self.task, self.scratch = task, scratch
        self.jobs = scratch
        self.events = self.task_events / f"{task}.jsonl"
        self.record = self.tasks / f"{task}.json"

    def worker_log(self, worker: str) -> Path:
        """Return the log of a worker's stderr."""
        return self.logs / f"{self.task}-{worker}.log"
