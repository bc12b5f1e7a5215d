"""The host's side of the guest contract: job.json, shard files and events. The reference is orch_runner.__main__."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

from orchestrator.inputs.collect import InputImage

CONTRACT = "orch-job/1"
ALIVE_TIMEOUT = 60.0
ALIVE_EVERY = 2.0
PART_EVERY = 60.0
END_NAME = "end"
ALIVE_NAME = "alive"
QUEUE_NAME = "queue"
JOB_NAME = "job.json"


@dataclass(frozen=True)
class GuestPaths:
    """Where a worker finds things, by the names its runtime gives them."""

    data: PurePath
    weights: PurePath
    out: PurePath
    cache: PurePath
    queue: PurePath
    stack: PurePath
    sources: Mapping[str, PurePath] = field(default_factory=dict, kw_only=True)
    """Upstream code by the names stack.yaml gives it."""


@dataclass(frozen=True)
class WorkerSettings:
    """What job.json says beyond the paths; the same for all workers of a run."""

    run: str
    plan: str
    predictor: str
    model: str
    task: str
    settings: Mapping[str, Any]
    config: str | None
    weights: Mapping[str, Mapping[str, str | None]]
    native: Mapping[str, Any]
    device: str
    exif: str
    score_threshold: float | None
    max_detections: int | None
    max_pixels: int
    batch_size: int
    threads: int
    readers: int
    attributes: int
    image_scores: bool


def job_document(settings: WorkerSettings, worker: str, paths: GuestPaths) -> dict[str, Any]:
    """The content of job.json."""
    document = asdict(settings)
    document["model"] = {
        "name": settings.model,
        "task": document.pop("task"),
        "settings": document.pop("settings"),
        "config": document.pop("config"),
        "weights": document.pop("weights"),
    }
    located: dict[str, Any] = {name: str(path) for name, path in asdict(paths).items() if name != "sources"}
    located["sources"] = {name: str(path) for name, path in paths.sources.items()}
    times = {"alive_timeout": ALIVE_TIMEOUT, "part_every": PART_EVERY}
    return {**document, "contract": CONTRACT, "worker": worker, **times, "paths": located}


@dataclass(frozen=True)
class ShardOrder:
    """A shard as it is handed to a worker; see the contract for skip, careful and alone."""

    number: int
    images: Sequence[InputImage]
    skip: Mapping[int, str] = field(default_factory=dict)
    careful: bool = False
    alone: frozenset[int] = frozenset()

    def document(self) -> dict[str, Any]:
        """The content of the shard's file in the queue."""
        known = {image.index: image.error for image in self.images if image.error is not None}
        return {
            "shard": self.number,
            "images": [{"index": image.index, "file": image.file, "path": image.path} for image in self.images],
            "skip": {str(index): reason for index, reason in {**known, **self.skip}.items()},
            "careful": self.careful,
            "alone": sorted(self.alone),
        }
