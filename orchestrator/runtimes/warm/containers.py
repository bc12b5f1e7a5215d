"""Warm workers through the engine's API, for people without Compose and for Podman: started, ended, their logs."""

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

from orchestrator.catalog.loader import ModelEntry, StackEntry
from orchestrator.catalog.weights import ensure_weights
from orchestrator.errors import MachineError
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.paths import home, worker_cache_folder
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.built import select_variant
from orchestrator.runtimes.docker.gpu_access import GpuSettings, detect_gpu_access, gpu_settings
from orchestrator.runtimes.docker.runtime import calling_user, isolation, start_container
from orchestrator.runtimes.mounts import GUEST
from orchestrator.runtimes.registry import choose_runtime
from orchestrator.runtimes.warm.compose_env import give_folder, give_spool
from orchestrator.runtimes.warm.discover import host_path
from orchestrator.runtimes.warm.settings import (
    CHECK,
    CHECK_SECONDS,
    COMMAND,
    GUEST_SPOOL,
    LOG_OPTIONS,
    STACK_LABEL,
    START_SECONDS,
    STOP_SECONDS,
    WARM_LABEL,
    common_environment,
    own_environment,
    warm_labels,
    worker_user,
)
from orchestrator.runtimes.warm.spool import Heartbeat, SpoolPaths, read_heartbeat, workers_of
from orchestrator.system.container_engine import Engine, connect
from orchestrator.system.display import Display
from orchestrator.system.json_lines import split_lines

UP_LABEL = f"{LABEL}.up"
"""On what `orch up` started: a digest of all settings, so that the same command leaves a fitting worker alone."""
COMPOSE_LABEL = "com.docker.compose.project"
_NANOSECONDS = 1_000_000_000
_LOOK_EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class UpOptions:
    """What a user asks of warm workers. None: what fits, or the worker's own default."""

    spool: Path
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
    """One warm worker to start: folders on the host, and what to tell it. A pure value."""

    number: int
    spool: Path
    weights: Path
    cache: Path
    data: Path | None = None
    """The folder of images it sees; others are handed over in the spool."""
    device: str = "cpu"
    idle_seconds: int | None = None
    memory_mb: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Started:
    """A worker that `orch up` saw serving."""

    container: str
    stack: str
    variant: str
    spool: Path
    fresh: bool

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {**vars(self), "spool": str(self.spool)}


def warm_settings(
    prepared: Prepared, spec: WarmSpec, security: tuple[str, ...], user: tuple[int, int], gpu: GpuSettings
) -> dict[str, Any]:
    """Everything the engine is asked for, as keyword arguments of containers.create. A pure value."""
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
    return {**settings, "labels": {**warm_labels(stack.name, variant), UP_LABEL: digest}}


def container_name(stack: str, variant: str, spec: WarmSpec) -> str:
    """The worker's name: an engine may serve several people, each with a spool of their own."""
    spool = hashlib.sha256(os.fsencode(spec.spool)).hexdigest()[:6]
    return f"orch-{stack}-{variant}-{spool}-{spec.number}"


def _mounts(spec: WarmSpec) -> list[dict[str, Any]]:
    folders = [(spec.spool, GUEST_SPOOL, False), (spec.weights, GUEST["weights"], True)]
    folders += [(spec.cache, GUEST["cache"], False)]
    folders += [] if spec.data is None else [(spec.data, GUEST["data"], True)]
    return [
        {"Type": "bind", "Source": str(source), "Target": str(target), "ReadOnly": read_only}
        for source, target, read_only in folders
    ]


def fetch_weights(stack: StackEntry, models: Sequence[ModelEntry], display: Display, *, offline: bool) -> None:
    """The weights of models that were named; where a stack was, of all those that can be had. Raises MachineError."""
    for entry in models or [ModelEntry(name, spec, stack) for name, spec in stack.spec.models.items()]:
        try:
            ensure_weights(entry, offline=offline, progress=display.transfer)
        except MachineError as error:
            if models:
                raise
            display.say(f"{entry.name}: {error.message}; {error.hint}")


def up(stack: StackEntry, models: Sequence[ModelEntry], options: UpOptions, display: Display) -> list[Started]:
    """Have workers of a stack serve; one that serves already as asked is left alone.

    Raises UsageError, BuildError, MachineError.
    """
    runtime, _ = choose_runtime("docker")
    choice = select_variant(stack, options.variant, options.device)
    runtime.require(choice.devices)
    fetch_weights(stack, models, display, offline=options.build.offline)
    prepared = runtime.prepare(stack, choice.variant, options.build, display.detail)
    started: list[Started] = []
    for number in range(1, options.workers + 1):
        spec = WarmSpec(
            number=number,
            spool=options.spool,
            weights=home() / "weights" / stack.name,
            cache=_cache(stack, choice.variant),
            data=options.data,
            device=choice.devices[(number - 1) % len(choice.devices)],
            idle_seconds=options.idle_seconds,
            memory_mb=options.memory_mb,
            threads=options.threads,
        )
        started.append(_ensure_serving(connect(), prepared, spec, display))
    return started


def _ensure_serving(engine: Engine, prepared: Prepared, spec: WarmSpec, display: Display) -> Started:
    user = worker_user(calling_user())
    spec.weights.mkdir(parents=True, exist_ok=True)
    # In a rootless engine, root inside is the caller outside.
    owner = calling_user() if "rootless" in engine.security else user
    give_spool(spec.spool, owner)
    give_folder(spec.cache, owner)
    settings = warm_settings(
        prepared, spec, engine.security, user, gpu_settings(detect_gpu_access(engine), spec.device)
    )
    earlier = _container(engine, settings["name"])
    fits = earlier is not None and _is_as_asked(earlier, settings)
    if earlier is not None and not fits:
        display.say(f"{settings['name']}: was started with other settings, or ended; replacing it")
        _end(earlier)
    container = earlier if fits else start_container(engine, settings)
    _wait_until_it_serves(container, spec.spool)
    return Started(settings["name"], prepared.stack.name, prepared.variant, spec.spool, not fits)


def _cache(stack: StackEntry, variant: str) -> Path:
    """What workers keep. Root's warm workers are somebody else: what its one-shot workers wrote is not theirs."""
    folder, caller = worker_cache_folder(stack.name, variant), calling_user()
    return folder if worker_user(caller) == caller else folder.with_name(f"{folder.name}-nobody")


def _container(engine: Engine, name: str) -> Any:
    import docker.errors

    try:
        return engine.client.containers.get(name)
    except docker.errors.NotFound:
        return None


def _is_as_asked(container: Any, settings: dict[str, Any]) -> bool:
    return bool(container.status == "running" and container.labels.get(UP_LABEL) == settings["labels"][UP_LABEL])


def _wait_until_it_serves(container: Any, spool: Path) -> None:
    """Until its heartbeat is there. Raises MachineError, with the end of its log, when it does not come up."""
    container.reload()
    hostname, deadline = container.attrs["Config"]["Hostname"], time.monotonic() + START_SECONDS
    while True:
        beats = [beat for beat in _heartbeats(SpoolPaths(spool)) if beat.host == hostname]
        if beats and beats[-1].problem is None:
            return
        container.reload()
        failed = container.status not in ("created", "running") or container.attrs["RestartCount"]
        if beats or failed or time.monotonic() > deadline:
            log = container.logs(tail=15).decode(errors="replace").strip()
            _end(container)
            problem = "is unfit" if beats else "ended at once" if failed else f"does not serve after {START_SECONDS} s"
            raise MachineError(f"the worker {container.name} {problem}", why=log or None, hint="orch doctor")
        time.sleep(_LOOK_EVERY_SECONDS)


def _heartbeats(spool: SpoolPaths) -> list[Heartbeat]:
    read = [read_heartbeat(spool, worker) for worker in workers_of(spool)]
    return [beat for beat in read if beat is not None]


def warm_containers(stacks: Sequence[str] = ()) -> list[Any]:
    """The containers of all warm workers, Compose's and those of `orch up`, running or not. Raises MachineError."""
    found = connect().client.containers.list(all=True, filters={"label": f"{WARM_LABEL}=1"}, ignore_removed=True)
    chosen = [one for one in found if not stacks or one.labels.get(STACK_LABEL) in stacks]
    return sorted(chosen, key=lambda one: str(one.name))


def mounted_at(container: Any, target: str) -> Path | None:
    """The folder of this machine that a container has at `target`."""
    for mount in container.attrs.get("Mounts", []):
        if mount.get("Destination") == target and mount.get("Type") == "bind":
            return host_path(mount["Source"])
    return None


def down(stacks: Sequence[str], spool: Path, report: Callable[[str], None]) -> list[str]:
    """End what `orch up` started on this spool, of these stacks or of all; their names. Compose's are Compose's."""
    ended: list[Any] = []
    for container in warm_containers(stacks):
        project = container.labels.get(COMPOSE_LABEL)
        if project is not None and stacks:
            report(f"{container.name} is Compose's: docker compose -p {project} --profile all down")
        if project is None and mounted_at(container, str(GUEST_SPOOL)) == spool:
            ended.append(container)
    threads = [threading.Thread(target=_end, args=(container,)) for container in ended]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [str(container.name) for container in ended]


def _end(container: Any) -> None:
    """SIGTERM, time for the images at hand, and the container is removed."""
    with contextlib.suppress(Exception):  # it may have ended by itself
        container.stop(timeout=STOP_SECONDS)
    with contextlib.suppress(Exception):
        container.remove(force=True)


def log_lines(container: Any, *, follow: bool, tail: int | None) -> Iterator[str]:
    """A worker's log, line by line; with `follow` until it ends."""
    blocks = container.logs(stream=True, follow=follow, tail="all" if tail is None else tail)
    for line in split_lines(blocks, keep_unfinished=True):
        yield line.decode(errors="replace")
