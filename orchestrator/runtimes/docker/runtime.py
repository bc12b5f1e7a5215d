"""The docker runtime: hardened containers through the engine's API. Podman's service socket works as well."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import MachineError
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.runtimes.base import BuildOptions, Exit, Prepared, WorkerSpec, worker_environment
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.docker.archive import loaded_from_archive
from orchestrator.runtimes.docker.build import ensure_image, image_id, image_tag, with_default_base
from orchestrator.runtimes.docker.gpu_access import GpuSettings, gpu_settings, wiring_of
from orchestrator.runtimes.guest_contract import JOB_NAME, GuestPaths
from orchestrator.runtimes.mounts import GUEST, GUEST_HOME, bound_folders, image_paths
from orchestrator.system.container_engine import Engine, connect
from orchestrator.system.display import Report
from orchestrator.system.json_lines import split_lines

PIDS_LIMIT = 2048
SHM_SIZE = "1g"
TMP_SIZE = "2g"
NOFILE = 16384
NAMES = {"USER": "orch", "LOGNAME": "orch"}
"""A user without an entry in /etc/passwd needs a name all the same: getpass and matplotlib ask for one."""
_ATTACH_AGAIN_SECONDS = 0.5
_GOING_ON = ("running", "created", "restarting", "paused", "unknown")
"""States of a container that may still say something; "unknown": the engine does not answer at the moment."""


class DockerRuntime:
    """Workers as containers: no network, read-only root, no capabilities, the caller's user."""

    name = "docker"

    def available(self) -> str | None:
        """None if an engine answers, else the reason why none does."""
        try:
            connect()
        except MachineError as error:
            return f"{error.message} ({error.why})"
        return None

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Build the variant's image unless the engine has it. Raises BuildError, MachineError."""
        options = with_default_base(options)
        inputs = build_inputs(stack, variant, options)
        engine, started = connect(), time.monotonic()
        digest = None if options.rebuild else loaded_from_archive(engine, inputs, report)
        fresh, seconds = False, time.monotonic() - started
        if digest is None:
            digest, fresh, seconds = ensure_image(engine, inputs, options, report)
        return Prepared(stack, variant, self.name, inputs.identity, image_tag(inputs), digest, fresh, seconds)

    def build_place(self, stack: StackEntry, variant: str, options: BuildOptions) -> Path | None:
        """The engine's data root, where the engine runs on this machine and lacks the image."""
        engine, inputs = connect(), build_inputs(stack, variant, with_default_base(options))
        if not options.rebuild and image_id(engine, image_tag(inputs)) is not None:
            return None
        root = Path(engine.info.get("DockerRootDir") or "/nonexistent")
        return root if engine.url.startswith("unix:") and root.is_dir() else None

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """The mount points: the same in every image."""
        del spec
        return image_paths(prepared)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> DockerWorker:
        """Create and start a container. Raises MachineError."""
        engine = connect()
        gpu = gpu_settings(wiring_of(engine), spec.device)
        settings = container_settings(prepared, spec, engine.security, calling_user(), gpu)
        return DockerWorker(engine, spec, settings)

    def require(self, devices: Sequence[str]) -> None:
        """Whether the engine can show workers these devices. Raises MachineError."""
        for device in devices:
            if device != "cpu":
                gpu_settings(wiring_of(connect()), device)

    def reap(self, run: str, jobs: Path) -> int:
        """Remove this run's containers, found by their label."""
        del jobs
        filters = {"label": f"{LABEL}.run={run}"}
        found: list[Any] = []
        with contextlib.suppress(Exception):  # an engine that is away now has nothing to be reaped
            found = connect().client.containers.list(all=True, filters=filters, ignore_removed=True)
        for container in found:
            _quietly(container.remove, force=True)
        return len(found)


def calling_user() -> tuple[int, int]:
    """User and group the files a worker leaves must belong to."""
    return os.getuid(), os.getgid()


def container_settings(
    prepared: Prepared, spec: WorkerSpec, security: tuple[str, ...], caller: tuple[int, int], gpu: GpuSettings
) -> dict[str, Any]:
    """Everything the engine is asked for, as keyword arguments of containers.create. A pure value."""
    environment = worker_environment(spec.threads, str(GUEST["cache"]), GUEST_HOME)
    return {
        "image": prepared.digest or prepared.location,
        "command": ["python", "-m", spec.module, str(GUEST["job"] / JOB_NAME)],
        "name": f"orch-{spec.run}-{spec.name}",
        "labels": {f"{LABEL}.run": spec.run, f"{LABEL}.worker": spec.name, f"{LABEL}.stack": prepared.stack.name},
        "environment": {**environment, **NAMES, **gpu.environment},
        "mounts": mounts(spec),
        **isolation(security, caller),
        "detach": True,
        # Events are read back through the engine's log, which other drivers may not give back.
        "log_config": {"Type": "json-file"},
        "device_requests": [dict(request) for request in gpu.device_requests],
        **({"runtime": gpu.runtime} if gpu.runtime else {}),
    }


def isolation(security: tuple[str, ...], caller: tuple[int, int]) -> dict[str, Any]:
    """What keeps a container from everything that is not its own, the same for all workers. A pure value."""
    # In a rootless engine, root inside is the caller outside, and any other user is nobody's.
    user, group = (0, 0) if "rootless" in security else caller
    return {
        "user": f"{user}:{group}",
        "network_mode": "none",
        "read_only": True,
        # Libraries that unpack and load a .so at run time need exec on their temporary folder.
        "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,size={TMP_SIZE},mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"] + (["label=disable"] if "selinux" in security else []),
        "pids_limit": PIDS_LIMIT,
        "shm_size": SHM_SIZE,
        "ulimits": [{"Name": "nofile", "Soft": NOFILE, "Hard": NOFILE}],
        "init": True,
        "stop_signal": "SIGTERM",
    }


def mounts(spec: WorkerSpec) -> list[dict[str, Any]]:
    """The bind mounts of a worker; a source that is missing is an error, not a new folder of root's."""
    return [
        {"Type": "bind", "Source": str(source), "Target": str(target), "ReadOnly": read_only}
        for source, target, read_only in bound_folders(spec)
    ]


def start_container(engine: Engine, settings: dict[str, Any]) -> Any:
    """Create and start a container. Raises MachineError; nothing is left of one that does not start."""
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
            _quietly(container.remove, force=True)
        raise MachineError(f"the container {settings['name']} cannot be started", why=str(error)) from error
    return container


class DockerWorker:
    """A runner in a container. Its end is what inspection says, never what a broken connection suggests."""

    def __init__(self, engine: Engine, spec: WorkerSpec, settings: dict[str, Any]) -> None:
        self.name = spec.name
        self._log = spec.log
        self._container = start_container(engine, settings)
        self._stderr = threading.Thread(target=self._copy_stderr, daemon=True)
        self._stderr.start()

    def lines(self) -> Iterator[bytes]:
        """Events; read again from the start when the connection broke while the container goes on."""
        while True:
            yield from split_lines(self._stream(stdout=True, stderr=False), keep_unfinished=False)
            if self._state() not in _GOING_ON:
                return
            time.sleep(_ATTACH_AGAIN_SECONDS)

    def wait(self) -> Exit:
        """Block until inspection says that the container ended."""
        while True:
            with contextlib.suppress(Exception):  # a connection that broke says nothing about the container
                self._container.wait(timeout=3600)
            state = self._state()
            if state == "gone":
                return Exit(137, detail="its container was removed")
            if state not in _GOING_ON:
                self._stderr.join(timeout=5)
                inspected = self._container.attrs["State"]
                return Exit(
                    int(inspected["ExitCode"]), bool(inspected.get("OOMKilled")), inspected.get("Error") or None
                )
            time.sleep(_ATTACH_AGAIN_SECONDS)

    def terminate(self) -> None:
        """SIGTERM, passed on by the container's init."""
        _quietly(self._container.kill, signal="SIGTERM")

    def kill(self) -> None:
        """SIGKILL."""
        _quietly(self._container.kill)

    def close(self) -> None:
        """Remove the container."""
        _quietly(self._container.remove, force=True)

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
        """One of the container's streams until it ends or breaks."""
        try:
            yield from self._container.logs(stream=True, follow=True, stdout=stdout, stderr=stderr)
        except Exception:  # whatever broke, `wait` and inspection decide what it means
            return

    def _copy_stderr(self) -> None:
        with self._log.open("ab") as log:
            for block in self._stream(stdout=False, stderr=True):
                log.write(block)
                log.flush()


def _quietly(action: Any, **arguments: Any) -> None:
    """Do what can only fail because it is done already, or because the engine is gone."""
    with contextlib.suppress(Exception):
        action(**arguments)
