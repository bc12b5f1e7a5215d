"""Whether a run goes to warm workers: as asked for, or by itself where fitting ones are up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from orchestrator.catalog.loader import ModelEntry
from orchestrator.errors import UsageError
from orchestrator.hardware import Selection
from orchestrator.paths import RunPaths
from orchestrator.plan.run_directory import begun_with
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import image_inputs
from orchestrator.runtimes.warm.discover import (
    Needs,
    WarmWorkerFound,
    fitting,
    needs_of,
    spool_folders,
    warm_containers,
)
from orchestrator.runtimes.warm.errors import WarmUnfit
from orchestrator.runtimes.warm.runtime import WarmRuntime
from orchestrator.runtimes.warm.spool import SpoolPaths
from orchestrator.system.display import Report


@dataclass(frozen=True)
class Wish:
    """What a user says of warm workers: `warm` True for these alone, False for none, None for what is there."""

    warm: bool | None = None
    spool: Path | None = None


@dataclass(frozen=True)
class Warm:
    """Warm workers that fit, found in one spool."""

    runtime: WarmRuntime
    why: str
    threads: int


def find_warm(
    wish: Wish, entry: ModelEntry, choice: Selection, paths: RunPaths, build: BuildOptions, say: Report
) -> Warm | None:
    """The warm workers for a run; None: run it cold. Raises WarmUnfit where warm ones were asked for and none fits."""
    if wish.warm:
        return _search(wish, entry, choice, paths, build, say)
    try:
        return _search(wish, entry, choice, paths, build, say)
    except (WarmUnfit, OSError) as error:  # a cold run must never end because of a spool
        why = error.why if isinstance(error, WarmUnfit) else str(error)
        if why:
            say(f"not using a warm worker: {why}")
        return None


def refusal(wish: Wish, runtime: str, executor: str, paths: RunPaths, own_weights: bool) -> str | None:
    """Why a run is none for warm workers, whatever there is; None if it may be."""
    if wish.warm is False:
        return "not wanted"
    if executor != "local":
        return f"workers run where the executor {executor} has them"
    if runtime not in ("auto", WarmRuntime.name):
        return f"the runtime asked for is {runtime}"
    begun = begun_with(paths)
    if begun not in (None, WarmRuntime.name):
        return f"the run in {paths.root} was begun with the runtime {begun}"
    if own_weights:
        return "the weights are none that warm workers see"
    return None


def check_wish(wish: Wish, why_not: str | None) -> bool:
    """Whether to look for warm workers. Raises UsageError where they were asked for and cannot be."""
    if wish.warm and why_not is not None:
        raise UsageError("--warm cannot be used for this run", why=why_not)
    return why_not is None


def _search(
    wish: Wish, entry: ModelEntry, choice: Selection, paths: RunPaths, build: BuildOptions, say: Report
) -> Warm | None:
    containers = cache(warm_containers)
    looked: list[str] = []
    needs = needs_of(image_inputs(entry.stack, choice.variant, build), choice.device)
    reasons: list[str] = []
    for folder in spool_folders(wish.spool, containers):
        looked.append(str(folder))
        spool = SpoolPaths(folder)
        found, why_not = fitting(spool, needs, containers)
        reasons += why_not
        if found:
            runtime = WarmRuntime.of_run(spool, needs, paths, partial(_look, spool, needs), say)
            why = f"warm worker {found[0].heartbeat.id} in {folder}"
            return Warm(runtime, why, found[0].heartbeat.threads)
    places = ", ".join(looked) or "nowhere: there is no spool"
    raise WarmUnfit(
        f"no warm worker fits {entry.name}",
        why="; ".join(reasons) or (f"none of {entry.stack.name} is up; looked in {places}" if wish.warm else None),
        hint=f"docker compose up -d --build; or: orch up {entry.stack.name}",
    )


def _look(spool: SpoolPaths, needs: Needs) -> list[WarmWorkerFound]:
    """The workers that fit at this moment. Containers are asked for anew: a restarted one may have other mounts."""
    return fitting(spool, needs, cache(warm_containers), patience=1.5)[0]
