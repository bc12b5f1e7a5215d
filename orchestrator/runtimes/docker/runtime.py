"""The docker runtime: hardened containers through the engine's API, Docker's or Podman's."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.catalog import StackEntry
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import LABEL, GpuCode, read_labels
from orchestrator.runtimes.base import (
    BUS_ERROR,
    BuildOptions,
    Exit,
    Finding,
    Location,
    Prepared,
    Runtime,
    WorkerSpec,
    worker_environment,
)
from orchestrator.runtimes.build_inputs import image_inputs
from orchestrator.runtimes.docker import folder_probe
from orchestrator.runtimes.docker.archive import ensure_archive, ensure_loaded
from orchestrator.runtimes.docker.build import ensure_image, inspect_image
from orchestrator.runtimes.docker.findings import examine_engine
from orchestrator.runtimes.docker.gpu_access import GpuSettings, detect_gpu_access, gpu_settings
from orchestrator.runtimes.docker.user import calling_user, container_user, folder_owner, worker_user
from orchestrator.runtimes.guest_contract import JOB_NAME, GuestPaths
from orchestrator.runtimes.limits import (
    FILE_SIZE,
    KEPT_LOG_SIZE,
    LOG_SIZE,
    MEMORY_SHARE,
    NO_LIMITS,
    OUT_SIZE,
    PROCESSES,
    Limits,
    format_size,
)
from orchestrator.runtimes.mounts import GUEST, GUEST_HOME, bound_folders, image_paths
from orchestrator.system import Engine, Report, connect, split_lines

SHM_SIZE = "1g"
TMP_SIZE = "2g"
NOFILE = 16384
NAMES = {"USER": "orch", "LOGNAME": "orch"}
"""A user without an entry in /etc/passwd needs a name too: getpass and matplotlib look for one."""
BUILD_FACTOR = 1.5
"""An estimate: beside an image's layers, a build leaves the downloaded packages in its cache."""
LOG_OPTIONS = {"max-size": f"{4 * LOG_SIZE >> 20}m", "max-file": "1"}
"""The engine's own limit of a container's log, for when no host watches it.

A log that the engine rotates while it is followed loses lines and repeats others (measured on 20.10: 25,368 of 60,000
lines arrived with files of 1 MB), and events are lines of it. The host therefore kills a worker long before.
"""
_RETRY_SECONDS = 0.5
_ENGINE_HINT = (
    "see the engine's log (journalctl -u docker), then run the same command again: it resumes where it stopped"
)
_ALIVE = ("running", "created", "restarting", "paused", "unknown")
"""States of a container that may still write; "unknown": the engine does not answer at the moment."""


class DockerRuntime(Runtime):
    """Workers as containers: no network, read-only root, no capabilities, limits, the caller's user, never root."""

    name = "docker"
    _has_access = False  # whether a worker of this run was found to get into its folders

    def set_limits(self, asked: Limits) -> None:
        """Have workers started with these limits. Raises UsageError for a user that workers cannot run as here."""
        if asked.user not in (None, calling_user()):
            option = f"--user {asked.user[0]}:{asked.user[1]}" if asked.user else ""
            if "rootless" in connect().security:
                why = "the engine is rootless: workers run as you, and other users are subordinate ids"
                raise UsageError(f"{option} cannot be used with this engine", why=why, hint="leave --user out")
            if calling_user()[0] != 0:
                why = "only root can have workers run as somebody else"
                raise UsageError(f"{option} cannot be used", why=why, hint="leave --user out: workers run as you")
        self.limits = asked

    def limits_in_force(self, workers: int) -> Limits:
        """Return the limits of each of so many workers; memory is the engine's, divided among them."""
        asked, total = self.limits, int(connect().info.get("MemTotal") or 0)
        return Limits(
            user=worker_user(calling_user(), asked.user),
            memory=asked.memory or int(total * MEMORY_SHARE) // max(1, workers) or None,
            processes=asked.processes or PROCESSES,
            file_size=asked.file_size or FILE_SIZE,
            out_size=asked.out_size or OUT_SIZE,
        )

    def worker_owner(self) -> tuple[int, int] | None:
        """Return whom workers run as, unless that is the caller, on the host."""
        caller = calling_user()
        return folder_owner(worker_user(caller, self.limits.user), caller, connect().security)

    def unavailable_reason(self) -> str | None:
        """Return why no engine answers; None where one does."""
        try:
            connect()
        except MachineError as error:
            return f"{error.message} ({error.why})"
        return None

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Build the variant's image unless the engine has it. Raises BuildError, MachineError."""
        inputs = image_inputs(stack, variant, options)
        engine, started = connect(), time.monotonic()
        digest = None if options.rebuild else ensure_loaded(engine, inputs, report)
        fresh, seconds = False, time.monotonic() - started
        if digest is None:
            digest, fresh, seconds = ensure_image(engine, inputs, options, report)
        return Prepared(stack, variant, self.name, inputs.identity, inputs.image_tag, digest, fresh, seconds)

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        """Return the variant's image; a build fills the engine's data root, if that is on this machine."""
        inputs = image_inputs(stack, variant, options)
        engine, tag = connect(), inputs.image_tag
        image = inspect_image(engine, tag)
        fill_folder = _data_root(engine) if options.rebuild or image is None else None
        gpu_code = None if image is None else _labelled_gpu_code(image.labels)
        return Location(tag, inputs.identity, image is not None, fill_folder, BUILD_FACTOR, gpu_code)

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """Return the mount points, the same in every image."""
        return image_paths(prepared)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> DockerWorker:
        """Create and start a container. Raises MachineError."""
        engine = connect()
        gpu = gpu_settings(detect_gpu_access(engine), spec.device)
        settings = container_settings(
            prepared, spec, engine.security, worker_user(calling_user(), self.limits.user), gpu
        )
        if not self._has_access:
            folder_probe.require_access(engine, settings, start_container)
            self._has_access = True
        return DockerWorker(engine, spec, settings)

    def require(self, devices: Sequence[str]) -> None:
        """Raise MachineError where the engine cannot give workers these devices."""
        for device in devices:
            if device != "cpu":
                gpu_settings(detect_gpu_access(connect()), device)

    def require_folders(self, folders: Sequence[Path]) -> None:
        """Raise MachineError where the engine's containers would not see these folders."""
        folder_probe.require_visible(connect(), folders)

    def reap(self, run: str, jobs: Path) -> int:
        """Remove this run's containers, known by their label."""
        filters = {"label": f"{LABEL}.run={run}"}
        containers: list[Any] = []
        with contextlib.suppress(Exception):  # an engine that does not answer has nothing to remove
            containers = connect().client.containers.list(all=True, filters=filters, ignore_removed=True)
        for container in containers:
            _ignore_errors(container.remove, force=True)
        return len(containers)

    def findings(self, stacks: Sequence[StackEntry]) -> Iterator[Finding]:
        """Yield what the engine is, and whether it can build images and give containers GPUs."""
        return examine_engine()

    def archive(self, prepared: Prepared, options: BuildOptions, report: Report, folder: Path | None) -> Path:
        """Write the image into an archive unless it exists, and return its path. Raises BuildError, MachineError."""
        inputs = image_inputs(prepared.stack, prepared.variant, options)
        return ensure_archive(connect(), inputs, replace(options, rebuild=False), report, folder)


def _data_root(engine: Engine) -> Path | None:
    """Return the engine's data root; None where it is not on this machine."""
    root = Path(engine.info.get("DockerRootDir") or "/nonexistent")
    return root if engine.url.startswith("unix:") and root.is_dir() else None


def _labelled_gpu_code(labels: Mapping[str, str]) -> GpuCode | None:
    with contextlib.suppress(ValueError):
        return read_labels(labels)
    return None


def container_settings(
    prepared: Prepared, spec: WorkerSpec, security: tuple[str, ...], user: tuple[int, int], gpu: GpuSettings
) -> dict[str, Any]:
    """Return all settings of a worker's container, as keyword arguments of containers.create. A pure value."""
    environment = worker_environment(spec.threads, str(GUEST["cache"]), GUEST_HOME)
    return {
        "image": prepared.digest or prepared.location,
        "command": ["python", "-m", spec.module, str(GUEST["job"] / JOB_NAME)],
        "name": f"orch-{spec.run}-{spec.name}",
        "labels": {f"{LABEL}.run": spec.run, f"{LABEL}.worker": spec.name, f"{LABEL}.stack": prepared.stack.name},
        "environment": {**environment, **NAMES, **gpu.environment},
        "mounts": mounts(spec),
        **isolation(security, user, spec.limits),
        "detach": True,
        # Events are read through the engine's log; other drivers may not return it.
        "log_config": {"Type": "json-file", "Config": LOG_OPTIONS},
        "device_requests": [dict(request) for request in gpu.device_requests],
        **({"runtime": gpu.runtime} if gpu.runtime else {}),
    }


def isolation(security: tuple[str, ...], user: tuple[int, int], limits: Limits = NO_LIMITS) -> dict[str, Any]:
    """Return the settings that isolate a container, the same for all workers. A pure value."""
    file_size = limits.file_size or FILE_SIZE
    # Without swap beyond it, a worker that exceeds its memory is killed instead of slowing the machine down.
    memory = {} if limits.memory is None else {"mem_limit": limits.memory, "memswap_limit": limits.memory}
    return {
        "user": container_user(user, security),
        "network_mode": "none",
        "read_only": True,
        # Libraries that unpack and load a .so at run time need exec on their temporary folder.
        "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,size={TMP_SIZE},mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"] + (["label=disable"] if "selinux" in security else []),
        "pids_limit": limits.processes or PROCESSES,
        **memory,
        "shm_size": SHM_SIZE,
        "ulimits": [
            {"Name": "nofile", "Soft": NOFILE, "Hard": NOFILE},
            {"Name": "fsize", "Soft": file_size, "Hard": file_size},
        ],
        "init": True,
        "stop_signal": "SIGTERM",
    }


def mounts(spec: WorkerSpec) -> list[dict[str, Any]]:
    """Return the bind mounts of a worker; a missing source is an error, not a new folder that root owns."""
    return [
        {"Type": "bind", "Source": str(source), "Target": str(target), "ReadOnly": read_only}
        for source, target, read_only in bound_folders(spec)
    ]


def start_container(engine: Engine, settings: dict[str, Any]) -> Any:
    """Create and start a container. Raises MachineError after removing one that does not start."""
    import docker.errors
    from docker.types import DeviceRequest, Mount, Ulimit

    arguments = dict(settings)
    arguments["mounts"] = [
        Mount(mount["Target"], mount["Source"], type="bind", read_only=mount["ReadOnly"])
        for mount in settings["mounts"]
    ]
    arguments["ulimits"] = [
        Ulimit(**{key.lower(): value for key, value in limit.items()}) for limit in settings["ulimits"]
    ]
    arguments["device_requests"] = [DeviceRequest(**one) for one in settings["device_requests"]]
    container: Any = None
    try:
        container = engine.client.containers.create(**arguments)
        container.start()
    except (docker.errors.DockerException, OSError) as error:
        if container is not None:
            _ignore_errors(container.remove, force=True)
        hint = folder_probe.HINT if any(words in str(error) for words in folder_probe.MISSING) else None
        raise MachineError(f"cannot start the container {settings['name']}", why=str(error), hint=hint) from error
    return container


class DockerWorker:
    """A runner in a container. Inspection decides whether it has ended, never a broken connection."""

    def __init__(self, engine: Engine, spec: WorkerSpec, settings: dict[str, Any]) -> None:
        self.name = spec.name
        self._log, self._limits, self._logs_too_much = spec.log, spec.limits, False
        self._container = start_container(engine, settings)
        self._stderr = threading.Thread(target=self._copy_stderr, daemon=True)
        self._stderr.start()

    def lines(self) -> Iterator[bytes]:
        """Yield events; read again from the start where the connection broke while the container runs."""
        while True:
            yield from split_lines(self._stream(stdout=True, stderr=False), keep_unfinished=False)
            if self._state() not in _ALIVE:
                return
            time.sleep(_RETRY_SECONDS)

    def wait(self) -> Exit:
        """Block until inspection reports that the container has ended."""
        is_engine_lost = False
        while True:
            with contextlib.suppress(Exception):  # a broken connection says nothing about the container
                self._container.wait(timeout=3600)
            state = self._state()
            is_engine_lost = is_engine_lost or state == "unknown"
            if state == "gone":
                return Exit(137, detail="its container was removed")
            if state not in _ALIVE:
                self._stderr.join(timeout=5)
                inspected = self._container.attrs["State"]
                code, out_of_memory = int(inspected["ExitCode"]), bool(inspected.get("OOMKilled"))
                if is_engine_lost and not out_of_memory:
                    return Exit(code, detail="its container engine was away while it ran", hint=_ENGINE_HINT)
                detail = self._describe_end(code, out_of_memory, inspected.get("Error"))
                return Exit(code, out_of_memory, detail, _next_step(code, out_of_memory))
            time.sleep(_RETRY_SECONDS)

    def _describe_end(self, code: int, out_of_memory: bool, error: str | None) -> str | None:
        """Name the limit that ended the worker, or what the engine says; None where neither is known."""
        memory, file_size = self._limits.memory, self._limits.file_size
        if self._logs_too_much:
            return f"it logged more than {format_size(LOG_SIZE)}"
        if out_of_memory and memory is not None:
            return f"out of memory: its limit is {format_size(memory)}, --memory raises it"
        if code == 128 + signal.SIGBUS:
            return f"{BUS_ERROR}, which holds {SHM_SIZE.upper()} in each container"
        if code == 128 + signal.SIGXFSZ and file_size is not None:
            return f"it wrote a file of more than {format_size(file_size)}, --file-size raises the limit"
        return error or None

    def terminate(self) -> None:
        """Send SIGTERM, which the container's init passes on."""
        _ignore_errors(self._container.kill, signal="SIGTERM")

    def kill(self) -> None:
        """Send SIGKILL."""
        _ignore_errors(self._container.kill)

    def close(self) -> None:
        """Remove the container."""
        _ignore_errors(self._container.remove, force=True)

    def _state(self) -> str:
        import docker.errors

        try:
            self._container.reload()
        except docker.errors.NotFound:
            return "gone"
        except Exception:
            return "unknown"  # the engine does not answer at the moment
        return str(self._container.status)

    def _stream(self, *, stdout: bool, stderr: bool) -> Iterator[bytes]:
        """Yield blocks of one of the container's streams until it ends or breaks; kill a worker that logs too much."""
        size = 0
        try:
            for block in self._container.logs(stream=True, follow=True, stdout=stdout, stderr=stderr):
                size += len(block)
                if size > LOG_SIZE:
                    self._logs_too_much = True
                    self.kill()
                    return
                yield block
        except Exception:  # inspection in `wait` decides what a broken stream means
            return

    def _copy_stderr(self) -> None:
        left = KEPT_LOG_SIZE
        with self._log.open("ab") as log:
            for block in self._stream(stdout=False, stderr=True):
                if left <= 0:
                    continue  # its size still counts
                log.write(block[:left])
                left -= len(block)
                if left <= 0:
                    log.write(f"\n(cut after {format_size(KEPT_LOG_SIZE)})\n".encode())
                log.flush()


def _next_step(code: int, out_of_memory: bool) -> str | None:
    """Return what can be done about the end of a worker; None where that depends on the predictor."""
    if out_of_memory:
        return (
            "--memory SIZE raises its limit, fewer workers (--workers N) leave more for each; the same command resumes"
        )
    if code == 128 + signal.SIGBUS:
        return (
            "smaller batches (--batch-size N) or fewer threads (--threads N) need less of it; the same command resumes"
        )
    return None


def _ignore_errors(action: Any, **arguments: Any) -> None:
    """Call what fails only where it has been done already, or where the engine does not answer."""
    with contextlib.suppress(Exception):
        action(**arguments)
