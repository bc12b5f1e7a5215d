"""Warm workers as their heartbeats and the engine show them: what `orch ps` lists."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = "orch-worker/1"
BEAT_SECONDS = 1.0
FRESH_SECONDS = 5.0


@dataclass(frozen=True)
class WarmWorker:
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


def read_heartbeats(spool: Path) -> list[dict[str, Any]]:
    """All heartbeats of a spool, those of dead workers too; what cannot be read is left out."""
    found: list[dict[str, Any]] = []
    for path in sorted((spool / "workers").glob("*.json")):
        try:
            beat = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(beat, dict) and beat.get("format") == FORMAT:
            found.append({**beat, "age": time.time() - float(beat.get("time", 0))})
    return found


def living(spool: Path) -> list[dict[str, Any]]:
    """The heartbeats that go on. Clocks may differ, so an old one is looked at twice."""
    first = read_heartbeats(spool)
    if all(abs(beat["age"]) < FRESH_SECONDS for beat in first):
        return first
    time.sleep(BEAT_SECONDS * 2)
    earlier = {beat["id"]: beat["beat"] for beat in first}
    return [beat for beat in read_heartbeats(spool) if earlier.get(beat["id"]) != beat["beat"]]


def worker_of(beat: dict[str, Any], name: str, spool: Path) -> WarmWorker:
    """A worker by its heartbeat."""
    models = beat.get("models") or []
    gpu = [model["gpu_mb"] for model in models if model.get("gpu_mb") is not None]
    return WarmWorker(
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
