"""Select warm workers for a run: search all spools for workers that are up and fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from orchestrator.catalog import ModelEntry
from orchestrator.errors import RuntimeUnsuitable
from orchestrator.hardware import Selection
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import image_inputs
from orchestrator.runtimes.warm.discover import (
    DiscoveredWorker,
    Needs,
    discover_spools,
    discover_workers,
    list_running_containers,
    needs_of,
)
from orchestrator.runtimes.warm.runtime import WarmRuntime
from orchestrator.runtimes.warm.spool import UnusableSpool, VariantSpool
from orchestrator.system import Report


class NoWarmWorker(RuntimeUnsuitable):
    """No warm worker of the stack is up at all."""


@dataclass(frozen=True)
class WarmSelection:
    """The fitting warm workers of one spool."""

    runtime: WarmRuntime
    why: str
    threads: int


def select_warm(
    entry: ModelEntry, choice: Selection, paths: RunPaths, build: BuildOptions, spool: Path | None, say: Report
) -> WarmSelection:
    """Return the warm workers for a run, from `spool` or else the first spool that has any.

    Raises NoWarmWorker where none of the stack is up, RuntimeUnsuitable where those that are do not fit.
    """
    containers = cache(list_running_containers)
    needs = needs_of(image_inputs(entry.stack, choice.variant, build), choice.device)
    searched: list[str] = []
    reasons: list[str] = []
    for folder in discover_spools(spool, containers):
        searched.append(str(folder))
        variant = VariantSpool(folder, needs.stack, needs.variant)
        try:
            workers, why_not = discover_workers(variant, needs, containers)
        except UnusableSpool as error:
            reasons.append(f"{error.message}: {error.why} ({error.hint})")
            continue
        reasons += why_not
        if workers:
            runtime = WarmRuntime.of_run(variant, needs, paths, partial(_discover, variant, needs), say)
            heartbeat = workers[0].heartbeat
            return WarmSelection(runtime, f"warm worker {heartbeat.id} in {folder}", heartbeat.threads)
    kind = RuntimeUnsuitable if reasons else NoWarmWorker
    folders = f"searched {', '.join(searched)}" if searched else "there is no spool folder"
    raise kind(
        f"no warm worker fits {entry.name}",
        why="; ".join(reasons) or f"none of {entry.stack.name} is up; {folders}",
        hint=f"docker compose up -d --build; or: orch up {entry.stack.name}",
    )


def _discover(spool: VariantSpool, needs: Needs) -> list[DiscoveredWorker]:
    """Return the workers that fit now. Containers are listed anew: a restarted one may have other mounts."""
    return discover_workers(spool, needs, cache(list_running_containers), patience=1.5)[0]
