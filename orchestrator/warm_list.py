"""All warm workers there are: containers of Compose and of `orch up`, and whoever else has a heartbeat in a spool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError
from orchestrator.heartbeats import WarmWorker, living, worker_of
from orchestrator.services import mounted_at, warm_containers
from orchestrator.warm_settings import GUEST_SPOOL, STACK_LABEL, VARIANT_LABEL


def list_workers(spools: Sequence[Path]) -> list[WarmWorker]:
    """The workers whose container this engine has, and those of `spools` that have none."""
    try:
        containers = warm_containers()
    except MachineError:  # workers may serve without an engine, or out of reach of this one
        containers = []
    spool_of = {container.id: mounted_at(container, str(GUEST_SPOOL)) for container in containers}
    folders = {folder.resolve() for folder in [*spools, *spool_of.values()] if folder is not None}
    beats = {folder: living(folder) for folder in sorted(folders)}
    found: list[WarmWorker] = []
    for container in containers:
        spool = spool_of[container.id]
        beat = None if spool is None else _taken(beats[spool.resolve()], container)
        if spool is None or beat is None:
            found.append(_silent(container, spool))
        else:
            found.append(worker_of(beat, container.name, spool))
    found += [worker_of(beat, str(beat["id"]), spool) for spool, left in beats.items() for beat in left]
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


def _silent(container: Any, spool: Path | None) -> WarmWorker:
    """A worker whose container alone is known."""
    labels, state = container.labels, container.attrs["State"]
    shown = "starting" if container.status == "running" else str(container.status)
    problem = f"exit {state['ExitCode']}" if container.status in ("exited", "restarting") else None
    where = None if spool is None else str(spool)
    return WarmWorker(
        container.name, str(labels.get(STACK_LABEL)), str(labels.get(VARIANT_LABEL)), shown, where, problem
    )
