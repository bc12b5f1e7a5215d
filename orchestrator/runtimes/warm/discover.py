"""Discover warm workers: the spools there are, the workers that are up in them, and those that fit a run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.paths import home
from orchestrator.runtimes.build_inputs import LOCK_NAME, BuildInputs
from orchestrator.runtimes.docker.user import calling_user, container_user, worker_user
from orchestrator.runtimes.guest_contract import CONTRACT
from orchestrator.runtimes.warm.heartbeat import (
    WORKER_FORMAT,
    Heartbeat,
    find_alive,
    is_locked,
    list_recent,
    read_file_list,
    read_heartbeat,
    read_version,
)
from orchestrator.runtimes.warm.settings import STACK_LABEL, USER_LABEL, VARIANT_LABEL, WARM_LABEL
from orchestrator.runtimes.warm.spool import VariantSpool, close_to_others, is_own_spool
from orchestrator.system import GuestTree, connect

LABEL_IDENTITY = "org.orch.identity"
WATCH_SECONDS = 2.5
_DESKTOP_PREFIX = "/host_mnt"
_COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


@dataclass(frozen=True)
class Needs:
    """What a worker must be built from to predict as a cold worker of the run would."""

    stack: str
    variant: str
    device: str
    identity: str
    files: Mapping[str, str]
    """sha256 by the path below the worker's opt folder."""
    sources: Mapping[str, str]
    """Commits of upstream code."""


@dataclass(frozen=True)
class WarmContainer:
    """A warm worker's container as the engine describes it."""

    hostname: str
    identity: str | None
    spool: Path | None
    """The user's spool; None where what it has mounted is no folder of its variant."""
    data: Path | None


ListContainers = Callable[[], list[WarmContainer]]
"""Returns the running containers of warm workers, by asking the engine."""


@dataclass(frozen=True)
class DiscoveredWorker:
    """A worker that is up. `data`: its folder of images on the host, where that is known."""

    heartbeat: Heartbeat
    data: Path | None


def needs_of(inputs: BuildInputs, device: str) -> Needs:
    """Return what a worker must be built from, given the build inputs of a run."""
    named = {LOCK_NAME: inputs.lock, **inputs.files}
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items()}
    commits = {name: source.commit for name, source in inputs.sources.items()}
    return Needs(inputs.stack, inputs.variant, device, inputs.identity, files, commits)


def unfit_reason(
    worker: Heartbeat,
    made_of: Mapping[str, Any],
    needs: Needs,
    identity: str | None = None,
    caller: int | None = None,
    *,
    is_shared: bool = False,
) -> str | None:
    """Return why a worker cannot replace a cold one; None if it can.

    `made_of` is the content of the worker's files.json. `is_shared`: the spool is a group's.
    """
    if (worker.stack, worker.variant) != (needs.stack, needs.variant):
        return f"it is for {worker.stack}, {worker.variant}"
    if worker.device != needs.device:
        return f"its device is {worker.device}, not {needs.device}"
    if worker.problem is not None:
        return worker.problem
    if worker.contract != CONTRACT:
        return f"it reads jobs of version {worker.contract}, not {CONTRACT}: build and start it again"
    caller = os.geteuid() if caller is None else caller
    if caller not in (0, worker.uid) and not is_shared:
        return f"it runs as uid {worker.uid}, you are uid {caller}: neither can write the other's files"
    files, sources = made_of.get("files", {}), made_of.get("sources", {})
    differing = sorted(name for name, digest in needs.files.items() if files.get(name) != digest)
    if differing:
        more = f" and {len(differing) - 1} more files" if len(differing) > 1 else ""
        return f"it was built from another {differing[0]}{more}: build and start it again"
    others = sorted(name for name, commit in sources.items() if needs.sources.get(name, commit) != commit)
    if others:
        return f"it has another commit of {others[0]}: build and start it again"
    if identity is not None and identity != needs.identity:
        return "its image was built with other arguments: build and start it again"
    return None


def discover_spools(spool: Path | None, containers: ListContainers) -> Iterator[Path]:
    """Yield the folders that may be spools; only `spool` or $ORCH_SPOOL where one is given, else the caller's own.

    The engine, which takes a while to answer, comes last.
    """
    chosen = spool or (Path(value) if (value := os.environ.get("ORCH_SPOOL")) else None)
    if chosen is not None:
        yield chosen.expanduser().absolute()
        return
    beside = [Path("spool").absolute()] if any(Path(name).is_file() for name in _COMPOSE_FILES) else []
    near = [folder for folder in [*beside, home() / "spool"] if is_own_spool(folder)]
    for folder in near:
        close_to_others(folder)
        yield folder
    mounted = dict.fromkeys(container.spool for container in containers() if container.spool is not None)
    yield from (folder for folder in mounted if folder not in near and is_own_spool(folder))


def discover_workers(
    spool: VariantSpool, needs: Needs, containers: ListContainers, patience: float = WATCH_SECONDS
) -> tuple[list[DiscoveredWorker], list[str]]:
    """Return the workers of a variant that are up and fit, and why others do not fit. Raises UnusableSpool, OSError."""
    try:
        with spool.open() as tree:
            return _discover(tree, needs, containers, patience)
    except FileNotFoundError:
        reason = _earlier_layout(spool.spool)
        return [], [] if reason is None else [reason]


def _earlier_layout(spool: Path) -> str | None:
    try:
        with GuestTree(spool) as tree:
            is_earlier = tree.has("workers")
    except OSError:
        return None
    if not is_earlier:
        return None
    return (
        f"the workers of {spool} are of an earlier orch, end them: orch down --all, docker compose down; rm -r {spool}"
    )


def _discover(
    tree: GuestTree, needs: Needs, containers: ListContainers, patience: float
) -> tuple[list[DiscoveredWorker], list[str]]:
    fit: dict[str, DiscoveredWorker] = {}
    reasons: list[str] = []
    for worker in list_recent(tree):
        beat = read_heartbeat(tree, worker)
        if beat is None:
            version = read_version(tree, worker)
            if version not in (None, WORKER_FORMAT) and is_locked(tree, worker):
                reasons.append(
                    f"{worker}: it is of another orch ({version}, not {WORKER_FORMAT}): build and start it again"
                )
            continue
        if beat.stack != needs.stack:
            continue
        data, container = locate_data_folder(beat), None
        if data is None:  # only the engine may know
            container = next((running for running in containers() if running.hostname == beat.host), None)
        identity = None if container is None else container.identity
        made_of = read_file_list(tree, worker)
        reason = unfit_reason(beat, made_of, needs, identity, is_shared=tree.is_shared)
        if reason is None:
            fit[worker] = DiscoveredWorker(beat, data if container is None else container.data)
        else:
            reasons.append(f"{worker}: {reason}")
    alive = find_alive(tree, list(fit), patience)
    reasons += [f"{worker}: it is no longer up" for worker in fit if worker not in alive]
    return [fitting for worker, fitting in fit.items() if worker in alive], reasons


def locate_data_folder(worker: Heartbeat) -> Path | None:
    """Return the worker's folder of images on the host, as the worker reports it, if the inode is equal."""
    if not worker.data_host or not Path(worker.data_host).is_absolute():
        return None
    folder = Path(worker.data_host)
    with contextlib.suppress(OSError):
        if folder.stat().st_ino == worker.data_inode:
            return folder
    return None


def list_running_containers() -> list[WarmContainer]:
    """Return the running containers of the caller's warm workers; none where no engine answers."""
    with contextlib.suppress(Exception):  # whatever is wrong with the engine, workers may be up without it
        engine = connect()
        uid = container_user(worker_user(calling_user()), engine.security).partition(":")[0]
        labels = [f"{WARM_LABEL}=1", f"{USER_LABEL}={uid}"]
        listed = engine.client.containers.list(filters={"label": labels, "status": "running"})
        return [_describe(container.attrs, container.image.labels) for container in listed]
    return []


def _describe(attrs: Mapping[str, Any], labels: Mapping[str, str]) -> WarmContainer:
    sources = {mount.get("Destination"): host_path(mount.get("Source")) for mount in attrs.get("Mounts", [])}
    hostname = str(attrs["Config"]["Hostname"])
    spool = spool_of(sources.get("/spool"), attrs["Config"].get("Labels") or {})
    return WarmContainer(hostname, labels.get(LABEL_IDENTITY), spool, sources.get("/data"))


def spool_of(mounted: Path | None, labels: Mapping[str, str]) -> Path | None:
    """Return the spool whose folder of a container's variant is mounted; None for any other folder."""
    if mounted is None or mounted.name != f"{labels.get(STACK_LABEL)}-{labels.get(VARIANT_LABEL)}":
        return None
    return mounted.parent


def host_path(source: str | None) -> Path | None:
    """Return the host's name of a mounted folder: Docker Desktop uses that of its virtual machine."""
    if not source:
        return None
    path = PurePosixPath(source)
    if path.is_relative_to(_DESKTOP_PREFIX):
        path = PurePosixPath("/") / path.relative_to(_DESKTOP_PREFIX)
    return Path(path)
