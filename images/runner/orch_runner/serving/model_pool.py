"""The model processes of a worker, and whether there is memory for another one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from orch_runner.contract import RunnerJob
from orch_runner.serving.model_process_handle import ModelProcessHandle

MOST_SIZES = 1000
"""Models, each with its settings, whose sizes are remembered."""


def make_load_key(job: RunnerJob) -> str:
    """Return all that is fixed when a model is loaded; jobs with equal keys can share a model process."""
    weights = {}
    for key, weight in job.weights.items():
        path = job.weights_dir / weight.file
        try:
            state = path.stat()
            stamp = [state.st_size, state.st_mtime_ns]
        except OSError:
            stamp = []
        weights[key] = [weight.file, weight.sha256, weight.package, stamp]
    sources = {name: str(folder) for name, folder in job.sources.items()}
    parts = [job.predictor, job.model_name, job.architecture, dict(job.settings), job.config, weights]
    return json.dumps([*parts, job.device, job.threads, sources, job.score_threshold], sort_keys=True)


@dataclass(frozen=True)
class Assignment:
    """The process for a job (None: start one after ending those in `evict`), or why the job has to wait."""

    process: Optional[ModelProcessHandle] = None
    evict: Sequence[ModelProcessHandle] = ()
    wait_reason: str = ""


class ModelPool:
    """The model processes of a worker and the memory they share."""

    def __init__(self, limit_mb: int) -> None:
        self.limit_mb = limit_mb
        self.processes: List[ModelProcessHandle] = []
        self._sizes: Dict[str, int] = {}

    def __str__(self) -> str:
        return f"{self.limit_mb} MB for all models"

    @property
    def rss_mb(self) -> int:
        """Return the memory of all model processes."""
        return sum(process.rss_mb for process in self.processes)

    @property
    def idle(self) -> List[ModelProcessHandle]:
        """Return the loaded processes that have no job."""
        return [process for process in self.processes if process.is_idle]

    def record_memory(self, process: ModelProcessHandle, report: Mapping[str, Any]) -> None:
        """Record the memory that a process reports."""
        process.rss_mb, process.gpu_mb = report["rss_mb"] or 0, report["gpu_mb"]
        if process.is_loaded:
            self._sizes.pop(process.load_key, None)
            self._sizes[process.load_key] = process.rss_mb
            if len(self._sizes) > MOST_SIZES:
                del self._sizes[next(iter(self._sizes))]  # the one recorded longest ago

    def assign(self, load_key: str, private: bool) -> Assignment:
        """Find a process for a job of that key. A private one is always started anew, one at a time."""
        usable = [process for process in self.processes if process.is_usable]
        if private and any(process.private for process in self.processes):
            return Assignment(wait_reason="another job's careful shards")
        if not private:
            for process in usable:
                if process.load_key == load_key and not process.private:
                    return Assignment(process)
        if any(not process.is_loaded and process.load_key != load_key for process in usable):
            return Assignment(wait_reason="another model's loading")  # whose memory is unknown until then
        return self._free_memory(load_key)

    def _free_memory(self, load_key: str) -> Assignment:
        # A model that was never loaded is assumed to be as large as the largest one.
        needed = self._sizes.get(load_key, max(self._sizes.values(), default=0))
        free = self.limit_mb - self.rss_mb
        evict: List[ModelProcessHandle] = []
        for process in sorted(self.processes, key=lambda process: process.idle_since):
            if free >= needed:
                break
            if process.is_idle:
                evict.append(process)
                free += process.rss_mb
        if free < needed and len(evict) < len(self.processes):
            return Assignment(wait_reason="memory: all loaded models are busy")
        return Assignment(evict=evict)
