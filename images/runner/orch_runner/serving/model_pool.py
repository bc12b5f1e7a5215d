"""Which keepers there are, and whether there is memory for another one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from orch_runner.contract import Job
from orch_runner.serving.model_process_handle import KeeperProcess


def load_key(job: Job) -> str:
    """All that is fixed when a model is loaded: jobs of one key can share a keeper. The rest is each job's own."""
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
    parts = [job.predictor, job.model_name, dict(job.settings), job.config, weights, job.device, job.threads]
    return json.dumps([*parts, sources, job.score_threshold], sort_keys=True)


@dataclass(frozen=True)
class Answer:
    """A keeper for a job (None: start one, after ending those in `evict`), or what the job has to wait for."""

    keeper: Optional[KeeperProcess] = None
    evict: Sequence[KeeperProcess] = ()
    waits: str = ""


class Room:
    """The keepers of a worker and the memory they share."""

    def __init__(self, limit_mb: int) -> None:
        self.limit_mb = limit_mb
        self.keepers: List[KeeperProcess] = []
        self._sizes: Dict[str, int] = {}

    def __str__(self) -> str:
        return f"{self.limit_mb} MB for all models"

    @property
    def rss_mb(self) -> int:
        """Memory of all keepers."""
        return sum(keeper.rss_mb for keeper in self.keepers)

    @property
    def idle(self) -> List[KeeperProcess]:
        """The keepers that nobody uses at the moment."""
        return [keeper for keeper in self.keepers if keeper.idle]

    def add(self, keeper: KeeperProcess) -> None:
        """A keeper was started."""
        self.keepers.append(keeper)

    def remove(self, keeper: KeeperProcess) -> None:
        """A keeper is no more."""
        self.keepers.remove(keeper)

    def loaded(self, keeper: KeeperProcess, report: Mapping[str, Any]) -> None:
        """A keeper has its model."""
        keeper.loaded = True
        self.measured(keeper, report)

    def measured(self, keeper: KeeperProcess, report: Mapping[str, Any]) -> None:
        """How much memory a keeper has now."""
        keeper.rss_mb, keeper.gpu_mb = report["rss_mb"] or 0, report["gpu_mb"]
        if keeper.loaded:
            self._sizes[keeper.key] = keeper.rss_mb

    def answer(self, key: str, private: bool) -> Answer:
        """What a job of that key can be given. A private keeper is started anew each time, one at a time."""
        sound = [keeper for keeper in self.keepers if keeper.sound]
        if private and any(keeper.private for keeper in self.keepers):
            return Answer(waits="another job's careful shards")
        if not private:
            for keeper in sound:
                if keeper.key == key and not keeper.private:
                    return Answer(keeper)
        if any(not keeper.loaded and keeper.key != key for keeper in sound):
            return Answer(waits="another model's loading")  # until then nobody knows how much memory it takes
        return self._evicting(key)

    def _evicting(self, key: str) -> Answer:
        # One that was never seen is taken for as large as the largest.
        needed = self._sizes.get(key, max(self._sizes.values(), default=0))
        left = self.limit_mb - self.rss_mb
        evict: List[KeeperProcess] = []
        for keeper in sorted(self.keepers, key=lambda one: one.idle_since):
            if left >= needed:
                break
            if keeper.idle:
                evict.append(keeper)
                left += keeper.rss_mb
        if left < needed and len(evict) < len(self.keepers):
            return Answer(waits="memory: what is loaded is at work")
        return Answer(evict=evict)
