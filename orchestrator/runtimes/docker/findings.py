"""What `orch doctor` says about the container engine."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.errors import MachineError, OrchError
from orchestrator.hardware import detect_machine
from orchestrator.runtimes.base import Finding
from orchestrator.runtimes.docker.gpu_access import detect_gpu_access
from orchestrator.system import Engine, build_command, connect, read_output


def examine_engine() -> Iterator[Finding]:
    """Yield which engine answers, and whether it can build images and give containers GPUs."""
    try:
        engine = connect()
    except MachineError as error:
        step = error.hint or "install Docker Engine, or use --runtime venv"
        yield Finding("container engine", "note", error.why or error.message, step)
        return
    kind = "Podman" if engine.is_podman else "Docker"
    rootless = ", rootless" if "rootless" in engine.security else ""
    yield Finding("container engine", "ok", f"{kind} {engine.version} at {engine.url}{rootless}")
    try:
        yield Finding("image builds", "ok", " ".join(build_command()[:1]))
    except OrchError as error:
        yield Finding("image builds", "problem", error.why or error.message, error.hint or "")
    yield _examine_compose()
    yield _examine_gpu_access(engine)


def _examine_compose() -> Finding:
    version = read_output(["docker", "compose", "version", "--short"]).strip()
    if version:
        return Finding("Compose", "ok", version)
    return Finding("Compose", "note", "no plugin", "only for docker compose up: install docker-compose-plugin")


def _examine_gpu_access(engine: Engine) -> Finding:
    try:
        return Finding("GPUs in containers", "ok", f"by {detect_gpu_access(engine).method()}")
    except MachineError as error:
        machine = detect_machine()
        if not machine.gpus and machine.broken is None and machine.assigned is None:
            return Finding("GPUs in containers", "note", "not set up; there is no GPU either")
        return Finding("GPUs in containers", "problem", error.why or error.message, error.hint or "")
