"""List all warm workers: containers of Compose and of `orch up`, and other workers with a heartbeat in a spool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.runtimes.warm.containers import list_containers, mounted_at
from orchestrator.runtimes.warm.discover import WATCH_SECONDS
from orchestrator.runtimes.warm.settings import GUEST_SPOOL, STACK_LABEL, VARIANT_LABEL
from orchestrator.runtimes.warm.spool import SpoolPaths, is_alive, list_worker_ids


@dataclass(frozen=True)
class WarmWorkerStatus:
    """One line of `orch ps`. What only a heartbeat tells is None where there is none."""

    name: str
    """The container's name, or the worker's id where no container of this engine is known."""
    stack: str
    variant: str
    state: str
    spool: str | None
    problem: str | None = None
    device: str | None = None
    models: Sequence[str] = ()
    memory_mb: float | None = None
    gpu_mb: float | None = None
    queue: int | None = None
    jobs: int | None = None
    images: int | None = None
    images_per_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def list_workers(spools: Sequence[Path]) -> list[WarmWorkerStatus]:
    """Return the workers whose container this engine has, and those of `spools` without a container."""
    try:
        containers = list_containers()
    except MachineError:  # workers may run without an engine, or in another one
        containers = []
    spool_of = {container.id: mounted_at(container, str(GUEST_SPOOL)) for container in containers}
    folders = {folder.resolve() for folder in [*spools, *spool_of.values()] if folder is not None}
    beats = {folder: read_heartbeats(folder) for folder in sorted(folders)}
    workers: list[WarmWorkerStatus] = []
    for container in containers:
        spool = spool_of[container.id]
        beat = None if spool is None else _take_heartbeat(beats[spool.resolve()], container)
        if spool is None or beat is None:
            workers.append(_describe_container(container, spool))
        else:
            workers.append(describe_worker(beat, container.name, spool))
    workers += [describe_worker(beat, str(beat["id"]), spool) for spool, others in beats.items() for beat in others]
    return sorted(workers, key=lambda worker: (worker.stack, worker.variant, worker.name))


def _take_heartbeat(beats: list[dict[str, Any]], container: Any) -> dict[str, Any] | None:
    """Return the container's heartbeat and remove it from `beats`; None where it has none."""
    if container.status != "running":
        return None
    hostname = container.attrs["Config"]["Hostname"]
    for beat in beats:
        if beat.get("host") == hostname:
            beats.remove(beat)
            return beat
    return None


def _describe_container(container: Any, spool: Path | None) -> WarmWorkerStatus:
    """Return the status of a worker that has a container but no heartbeat."""
    labels, state = container.labels, container.attrs["State"]
    status = "starting" if container.status == "running" else str(container.status)
    problem = f"exit {state['ExitCode']}" if container.status in ("exited", "restarting") else None
    stack, variant = str(labels.get(STACK_LABEL)), str(labels.get(VARIANT_LABEL))
    return WarmWorkerStatus(container.name, stack, variant, status, None if spool is None else str(spool), problem)


def read_heartbeats(spool: Path) -> list[dict[str, Any]]:
    """Return the heartbeats of a spool's workers that are up."""
    paths = SpoolPaths(spool)
    workers = list_worker_ids(paths)
    with ThreadPoolExecutor(max_workers=max(1, len(workers))) as pool:  # each may have to be watched for a while
        up = list(pool.map(lambda worker: is_alive(paths, worker, WATCH_SECONDS), workers))
    beats = [_read(paths, worker) for worker, alive in zip(workers, up, strict=True) if alive]
    return [beat for beat in beats if beat is not None]


def _read(spool: SpoolPaths, worker: str) -> dict[str, Any] | None:
    try:
        beat = json.loads((spool.workers / f"{worker}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return beat if isinstance(beat, dict) else None


def describe_worker(beat: dict[str, Any], name: str, spool: Path) -> WarmWorkerStatus:
    """Return the status of a worker, by its heartbeat."""
    models = beat.get("models") or []
    gpu = [model["gpu_mb"] for model in models if model.get("gpu_mb") is not None]
    return WarmWorkerStatus(
        name=name,
        stack=str(beat.get("stack")),
        variant=str(beat.get("variant")),
        state=str(beat.get("state")),
        spool=str(spool),
        problem=beat.get("problem"),
        device=beat.get("device"),
        models=[str(model.get("name")) for model in models],
        memory_mb=beat.get("rss_mb"),
        gpu_mb=sum(gpu) if gpu else None,
        queue=beat.get("waiting"),
        jobs=beat.get("jobs"),
        images=beat.get("images"),
        images_per_s=beat.get("images_per_s"),
    )
