"""Start and stop warm workers through the engine's API, for Podman and for hosts without Compose; read their logs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.catalog import ModelEntry, StackEntry, ensure_weights
from orchestrator.errors import MachineError
from orchestrator.hardware import LABEL
from orchestrator.paths import home, worker_cache_folder
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.built import select_variant
from orchestrator.runtimes.docker.gpu_access import GpuSettings, detect_gpu_access, gpu_settings
from orchestrator.runtimes.docker.runtime import isolation, start_container
from orchestrator.runtimes.docker.user import calling_user, folder_owner, worker_user
from orchestrator.runtimes.mounts import GUEST
from orchestrator.runtimes.registry import choose_runtime
from orchestrator.runtimes.warm.discover import host_path, spool_of
from orchestrator.runtimes.warm.heartbeat import Heartbeat, list_worker_ids, read_heartbeat, remove_dead_workers
from orchestrator.runtimes.warm.settings import (
    CHECK,
    CHECK_SECONDS,
    COMMAND,
    GUEST_SPOOL,
    LOG_OPTIONS,
    STACK_LABEL,
    START_SECONDS,
    STOP_SECONDS,
    USER_LABEL,
    WARM_LABEL,
    common_environment,
    own_environment,
    warm_labels,
)
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder, variants_in, worker_group
from orchestrator.runtimes.worker_cache import ensure_worker_cache
from orchestrator.system import Display, Engine, connect, split_lines

UP_LABEL = f"{LABEL}.up"
"""Label with a digest of all settings: `orch up` leaves a worker alone that has the same ones."""
COMPOSE_LABEL = "com.docker.compose.project"
_NANOSECONDS = 1_000_000_000
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class UpOptions:
    """Options of `orch up`. None: what fits, or the worker's own default."""

    spool: Path
    is_default_spool: bool = False
    """Whether the user named none."""
    variant: str | None = None
    device: str | None = None
    data: Path | None = None
    workers: int = 1
    idle_seconds: int | None = None
    memory_mb: int | None = None
    threads: int | None = None
    build: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True)
class WarmSpec:
    """One warm worker to start: its number, folders on the host and settings. A pure value."""

    number: int
    spool: VariantSpool
    weights: Path
    cache: Path
    data: Path | None = None
    """The folder of images that it can read; other images are staged in the spool."""
    device: str = "cpu"
    idle_seconds: int | None = None
    memory_mb: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class ServingWorker:
    """A worker that serves. `fresh`: it was started just now."""

    container: str
    stack: str
    variant: str
    spool: Path
    fresh: bool

    def as_json(self) -> dict[str, object]:
        return {**vars(self), "spool": str(self.spool)}


def warm_settings(
    prepared: Prepared, spec: WarmSpec, security: tuple[str, ...], user: tuple[int, int], gpu: GpuSettings
) -> dict[str, Any]:
    """Return the keyword arguments of the engine's containers.create. A pure value."""
    stack, variant = prepared.stack, prepared.variant
    choices = {
        "ORCH_DATA_HOST": spec.data,
        "ORCH_IDLE_SECONDS": spec.idle_seconds,
        "ORCH_MEMORY_MB": spec.memory_mb,
        "ORCH_THREADS": spec.threads,
    }
    settings = {
        "image": prepared.digest or prepared.location,
        "command": COMMAND,
        "name": container_name(stack.name, variant, spec),
        "environment": {
            **common_environment(),
            **own_environment(stack, variant),
            **gpu.environment,
            **{name: str(value) for name, value in choices.items() if value is not None},
        },
        "mounts": _mounts(spec),
        **isolation(security, user),
        "restart_policy": {"Name": "unless-stopped"},
        "healthcheck": {
            "test": ["CMD", *CHECK],
            "interval": CHECK_SECONDS * _NANOSECONDS,
            "timeout": 10 * _NANOSECONDS,
            "retries": 3,
            "start_period": START_SECONDS * _NANOSECONDS,
        },
        "log_config": {"Type": "json-file", "Config": LOG_OPTIONS},
        "detach": True,
        "device_requests": [dict(request) for request in gpu.device_requests],
        **({"runtime": gpu.runtime} if gpu.runtime else {}),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    uid = str(settings["user"]).partition(":")[0]
    return {**settings, "labels": {**warm_labels(stack.name, variant), USER_LABEL: uid, UP_LABEL: digest}}


def container_name(stack: str, variant: str, spec: WarmSpec) -> str:
    """Return the worker's name, which differs by spool: several users may share an engine."""
    spool = hashlib.sha256(os.fsencode(spec.spool.spool)).hexdigest()[:6]
    return f"orch-{stack}-{variant}-{spool}-{spec.number}"


def _mounts(spec: WarmSpec) -> list[dict[str, Any]]:
    folders = [(spec.spool.root, GUEST_SPOOL, False), (spec.weights, GUEST["weights"], True)]
    folders += [(spec.cache, GUEST["cache"], False)]
    folders += [] if spec.data is None else [(spec.data, GUEST["data"], True)]
    return [
        {"Type": "bind", "Source": str(source), "Target": str(target), "ReadOnly": read_only}
        for source, target, read_only in folders
    ]


def fetch_weights(stack: StackEntry, models: Sequence[ModelEntry], display: Display, *, offline: bool) -> None:
    """Fetch the weights of `models`; with none, those of the stack's models that can be fetched.

    Raises MachineError.
    """
    for entry in models or [ModelEntry(name, spec, stack) for name, spec in stack.spec.models.items()]:
        try:
            ensure_weights(entry, offline=offline, progress=display.transfer)
        except MachineError as error:
            if models:
                raise
            display.say(f"{entry.name}: {error.message}; {error.hint}")


def start_workers(
    stack: StackEntry, models: Sequence[ModelEntry], options: UpOptions, display: Display
) -> list[ServingWorker]:
    """Start workers of a stack and wait until they serve; a worker with these settings is left alone.

    Raises UsageError, BuildError, MachineError.
    """
    runtime, _ = choose_runtime("docker")
    choice = select_variant(stack, options.variant, options.device)
    runtime.require(choice.devices)
    runtime.require_folders([options.spool])
    fetch_weights(stack, models, display, offline=options.build.offline)
    prepared = runtime.prepare(stack, choice.variant, options.build, display.detail)
    spool = VariantSpool(options.spool, stack.name, choice.variant)
    owner, user = _worker_users(connect())
    make_variant_folder(spool, owner, is_default=options.is_default_spool)
    with spool.open() as tree:
        remove_dead_workers(tree)
    user = (user[0], worker_group(spool.spool, user[1]))
    serving: list[ServingWorker] = []
    for number in range(1, options.workers + 1):
        spec = WarmSpec(
            number=number,
            spool=spool,
            weights=home() / "weights" / stack.name,
            cache=worker_cache_folder(stack.name, choice.variant, runtime.worker_owner()),
            data=options.data,
            device=choice.devices[(number - 1) % len(choice.devices)],
            idle_seconds=options.idle_seconds,
            memory_mb=options.memory_mb,
            threads=options.threads,
        )
        ensure_worker_cache(spec.cache, runtime.worker_owner())
        serving.append(_ensure_serving(connect(), prepared, spec, user, display))
    return serving


def _worker_users(engine: Engine) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return who owns a worker's files on this host, and who it is in its container."""
    user = worker_user(calling_user())
    return folder_owner(user, calling_user(), engine.security) or calling_user(), user


def _ensure_serving(
    engine: Engine, prepared: Prepared, spec: WarmSpec, user: tuple[int, int], display: Display
) -> ServingWorker:
    spec.weights.mkdir(parents=True, exist_ok=True)
    gpu = gpu_settings(detect_gpu_access(engine), spec.device)
    settings = warm_settings(prepared, spec, engine.security, user, gpu)
    earlier = _get_container(engine, settings["name"])
    fits = earlier is not None and _runs_with(earlier, settings)
    if earlier is not None and not fits:
        display.say(f"{settings['name']}: has other settings, or has ended; replacing it")
        _stop(earlier)
    container = earlier if fits else start_container(engine, settings)
    _wait_until_serving(container, spec.spool)
    return ServingWorker(settings["name"], prepared.stack.name, prepared.variant, spec.spool.spool, not fits)


def _get_container(engine: Engine, name: str) -> Any:
    import docker.errors

    try:
        return engine.client.containers.get(name)
    except docker.errors.NotFound:
        return None


def _runs_with(container: Any, settings: dict[str, Any]) -> bool:
    return bool(container.status == "running" and container.labels.get(UP_LABEL) == settings["labels"][UP_LABEL])


def _wait_until_serving(container: Any, spool: VariantSpool) -> None:
    """Wait for the worker's heartbeat. Raises MachineError with the end of its log if none comes."""
    container.reload()
    hostname, deadline = container.attrs["Config"]["Hostname"], time.monotonic() + START_SECONDS
    while True:
        beats = [beat for beat in _heartbeats(spool) if beat.host == hostname]
        if beats and beats[-1].problem is None:
            return
        container.reload()
        has_ended = container.status not in ("created", "running") or container.attrs["RestartCount"]
        if beats or has_ended or time.monotonic() > deadline:
            log = container.logs(tail=15).decode(errors="replace").strip()
            _stop(container)
            late = f"does not serve after {START_SECONDS} s"
            problem = "is unfit" if beats else "ended at once" if has_ended else late
            raise MachineError(f"the worker {container.name} {problem}", why=log or None, hint="orch doctor")
        time.sleep(_POLL_SECONDS)


def _heartbeats(spool: VariantSpool) -> list[Heartbeat]:
    with spool.open() as tree:
        beats = [read_heartbeat(tree, worker) for worker in list_worker_ids(tree)]
    return [beat for beat in beats if beat is not None]


def list_containers(stacks: Sequence[str] = ()) -> list[Any]:
    """Return the containers of warm workers, also of Compose, running or not. Raises MachineError."""
    listed = connect().client.containers.list(all=True, filters={"label": f"{WARM_LABEL}=1"}, ignore_removed=True)
    chosen = [container for container in listed if not stacks or container.labels.get(STACK_LABEL) in stacks]
    return sorted(chosen, key=lambda container: str(container.name))


def find_warm_stacks(spool: Path) -> set[str]:
    """Return the stacks of all warm workers, and those that left something in this spool. Raises MachineError."""
    labelled = {str(container.labels.get(STACK_LABEL)) for container in list_containers()}
    return labelled | {variant.stack for variant in variants_in(spool)}


def mounted_at(container: Any, target: str) -> Path | None:
    """Return the folder of this host that a container sees as `target`; None where it has none."""
    for mount in container.attrs.get("Mounts", []):
        if mount.get("Destination") == target and mount.get("Type") == "bind":
            return host_path(mount["Source"])
    return None


def mounted_spool(container: Any) -> Path | None:
    """Return the spool whose folder of its variant a worker has mounted; None where it has another one."""
    return spool_of(mounted_at(container, str(GUEST_SPOOL)), container.labels)


def stop_workers(stacks: Sequence[str], spool: Path, report: Callable[[str], None]) -> list[str]:
    """Stop this spool's workers of these stacks, or of all, and return their names; Compose stops its own.

    Also removes what workers left in the spool that ended in another way.
    """
    chosen: list[Any] = []
    for container in list_containers(stacks):
        project = container.labels.get(COMPOSE_LABEL)
        if project is not None and stacks:
            report(f"{container.name} belongs to Compose; to stop it: docker compose -p {project} --profile all down")
        # The whole spool is what an earlier orch mounted.
        if project is None and spool in (mounted_spool(container), mounted_at(container, str(GUEST_SPOOL))):
            chosen.append(container)
    threads = [threading.Thread(target=_stop, args=(container,)) for container in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for variant in variants_in(spool):
        if not stacks or variant.stack in stacks:
            with contextlib.suppress(OSError, MachineError), variant.open() as tree:
                remove_dead_workers(tree)
    return [str(container.name) for container in chosen]


def _stop(container: Any) -> None:
    """Stop a worker, which may finish its images, and remove its container."""
    with contextlib.suppress(Exception):  # it may have ended already
        container.stop(timeout=STOP_SECONDS)
    with contextlib.suppress(Exception):
        container.remove(force=True)


def log_lines(container: Any, *, follow: bool, tail: int | None) -> Iterator[str]:
    """Yield the lines of a worker's log; with `follow` until the worker ends."""
    blocks = container.logs(stream=True, follow=follow, tail="all" if tail is None else tail)
    for line in split_lines(blocks, keep_unfinished=True):
        yield line.decode(errors="replace")
