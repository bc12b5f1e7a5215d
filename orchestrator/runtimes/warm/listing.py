"""List all warm workers: containers of Compose and of `orch up`, and other workers with a heartbeat in a spool."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.runtimes.warm.containers import list_containers, mounted_spool
from orchestrator.runtimes.warm.discover import WATCH_SECONDS
from orchestrator.runtimes.warm.heartbeat import Heartbeat, find_all_alive, list_worker_ids, read_heartbeat
from orchestrator.runtimes.warm.settings import STACK_LABEL, VARIANT_LABEL
from orchestrator.runtimes.warm.spool import VariantSpool, is_own_spool, variants_in


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
    spool_by_container = {container.id: mounted_spool(container) for container in containers}
    folders = {folder.resolve() for folder in [*spools, *spool_by_container.values()] if folder is not None}
    beats = {folder: read_heartbeats(folder) for folder in sorted(folders)}
    workers: list[WarmWorkerStatus] = []
    for container in containers:
        spool = spool_by_container[container.id]
        beat = None if spool is None else _take_heartbeat(beats[spool.resolve()], container)
        if spool is None or beat is None:
            workers.append(_describe_container(container, spool))
        else:
            workers.append(describe_worker(beat, container.name, spool))
    workers += [describe_worker(beat, beat.id, spool) for spool, others in beats.items() for beat in others]
    return sorted(workers, key=lambda worker: (worker.stack, worker.variant, worker.name))


def _take_heartbeat(beats: list[Heartbeat], container: Any) -> Heartbeat | None:
    """Return the container's heartbeat and remove it from `beats`; None where it has none."""
    if container.status != "running":
        return None
    hostname = container.attrs["Config"]["Hostname"]
    for beat in beats:
        if beat.host == hostname:
            beats.remove(beat)
            return beat
    return None


def _describe_container(container: Any, spool: Path | None) -> WarmWorkerStatus:
    """Return the status of a worker that has a container but no heartbeat."""
    labels, state = container.labels, container.attrs["State"]
    is_starting = container.status == "running" and spool is not None and is_own_spool(spool)
    status = "starting" if is_starting else str(container.status)
    problem = f"exit {state['ExitCode']}" if container.status in ("exited", "restarting") else None
    stack, variant = str(labels.get(STACK_LABEL)), str(labels.get(VARIANT_LABEL))
    return WarmWorkerStatus(container.name, stack, variant, status, None if spool is None else str(spool), problem)


def read_heartbeats(spool: Path) -> list[Heartbeat]:
    """Return the heartbeats of a spool's workers that are up; none of a spool that is not the caller's."""
    variants = variants_in(spool)
    with ThreadPoolExecutor(max_workers=max(1, len(variants))) as pool:  # each may have to be watched for a while
        return [beat for beats in pool.map(_read_variant, variants) for beat in beats]


def _read_variant(variant: VariantSpool) -> list[Heartbeat]:
    try:
        with variant.open() as tree:
            alive = find_all_alive(tree, list_worker_ids(tree), WATCH_SECONDS)
            beats = [read_heartbeat(tree, worker) for worker in sorted(alive)]
    except (OSError, MachineError):
        return []
    return [beat for beat in beats if beat is not None]


def describe_worker(beat: Heartbeat, name: str, spool: Path) -> WarmWorkerStatus:
    """Return the status of a worker, by its heartbeat."""
    return WarmWorkerStatus(
        name=name,
        stack=beat.stack,
        variant=beat.variant,
        state=beat.state,
        spool=str(spool),
        problem=beat.problem,
        device=beat.device,
        models=beat.models,
        memory_mb=beat.rss_mb,
        gpu_mb=beat.gpu_mb,
        queue=beat.waiting,
        jobs=beat.jobs,
        images=beat.images,
        images_per_s=beat.images_per_s,
    )
