"""The names of all files: those of a run, and those orch keeps between runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
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


def build_logs_folder() -> Path:
    """Where logs of builds go."""
    return home() / "logs"


def user_stacks_folder() -> Path:
    """Where a user puts stacks of their own for good."""
    return user_config_path("orch") / "stacks"


@dataclass(frozen=True)
class RunPaths:
    """Every file of one run directory."""

    root: Path

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

    def shard(self, number: int) -> Path:
        """The finished shard of that number."""
        return self.shards / f"{number:05d}.npz"

    def worker_log(self, worker: str) -> Path:
        """A worker's stderr."""
        return self.logs / f"{worker}.log"

    def job(self, worker: str) -> Path:
        """A worker's job folder, mounted read-only into it."""
        return self.jobs / worker
