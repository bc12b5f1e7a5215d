"""All warm workers there are: containers of Compose and of `orch up`, and whoever else has a heartbeat in a spool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.runtimes.warm.containers import mounted_at, warm_containers
from orchestrator.runtimes.warm.discover import WATCH_SECONDS
from orchestrator.runtimes.warm.settings import GUEST_SPOOL, STACK_LABEL, VARIANT_LABEL
from orchestrator.runtimes.warm.spool import SpoolPaths, is_alive, workers_of


@dataclass(frozen=True)
class Shown:
    """One warm worker; what only its heartbeat could say is None where there is none."""

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
        """For `--json`."""
        return asdict(self)


def list_workers(spools: Sequence[Path]) -> list[Shown]:
    """The workers whose container this engine has, and those of `spools` that have none."""
    try:
        containers = warm_containers()
    except MachineError:  # workers may serve without an engine, or out of reach of this one
        containers = []
    spool_of = {container.id: mounted_at(container, str(GUEST_SPOOL)) for container in containers}
    folders = {folder.resolve() for folder in [*spools, *spool_of.values()] if folder is not None}
    beats = {folder: beats_of(folder) for folder in sorted(folders)}
    found: list[Shown] = []
    for container in containers:
        spool = spool_of[container.id]
        beat = None if spool is None else _taken(beats[spool.resolve()], container)
        if spool is None or beat is None:
            found.append(_silent(container, spool))
        else:
            found.append(shown_by(beat, container.name, spool))
    found += [shown_by(beat, str(beat["id"]), spool) for spool, left in beats.items() for beat in left]
    return sorted(found, key=lambda worker: (worker.stack, worker.variant, worker.name))


def _taken(beats: list[dict[str, Any]], container: Any) -> dict[str, Any] | None:
    """The container's heartbeat, taken out of those that are left."""
    if container.status != "running":
        return None
    hostname = container.attrs["Config"]["Hostname"]
    for beat in beats:
        if beat.get("host") == hostname:
            beats.remove(beat)
            return beat
    return None


def _silent(container: Any, spool: Path | None) -> Shown:
    """A worker whose container alone is known."""
    labels, state = container.labels, container.attrs["State"]
    shown = "starting" if container.status == "running" else str(container.status)
    problem = f"exit {state['ExitCode']}" if container.status in ("exited", "restarting") else None
    where = None if spool is None else str(spool)
    return Shown(container.name, str(labels.get(STACK_LABEL)), str(labels.get(VARIANT_LABEL)), shown, where, problem)


def beats_of(spool: Path) -> list[dict[str, Any]]:
    """The heartbeats of the workers that are up."""
    paths = SpoolPaths(spool)
    workers = workers_of(paths)
    with ThreadPoolExecutor(max_workers=max(1, len(workers))) as pool:  # each may have to be watched for a while
        up = list(pool.map(lambda worker: is_alive(paths, worker, WATCH_SECONDS), workers))
    found = [_read(paths, worker) for worker, alive in zip(workers, up, strict=True) if alive]
    return [beat for beat in found if beat is not None]


def _read(spool: SpoolPaths, worker: str) -> dict[str, Any] | None:
    try:
        beat = json.loads((spool.workers / f"{worker}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return beat if isinstance(beat, dict) else None


def shown_by(beat: dict[str, Any], name: str, spool: Path) -> Shown:
    """A worker by its heartbeat."""
    models = beat.get("models") or []
    gpu = [model["gpu_mb"] for model in models if model.get("gpu_mb") is not None]
    return Shown(
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
