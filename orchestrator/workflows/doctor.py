"""What this machine has and lacks, and for each thing amiss the next step."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator import __version__
from orchestrator.errors import MachineError, OrchError
from orchestrator.hardware import Gpu, cores, look
from orchestrator.hardware.machine import BROKEN_HINT
from orchestrator.paths import home

Status = Literal["ok", "note", "problem"]
LITTLE_SPACE_GB = 20


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. A "problem" keeps some stacks from running; a "note" does not."""

    what: str
    status: Status
    found: str
    step: str = ""

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything. A check that fails in an unforeseen way is a finding of its own."""
    checks: list[Callable[[], Iterator[Finding]]] = [_orch, _engine, _gpus, _environments, _disk]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except OrchError as error:
            findings.append(Finding(check.__name__.lstrip("_"), "problem", error.message, error.hint or ""))
        except Exception as error:
            name = check.__name__.lstrip("_")
            findings.append(Finding(name, "problem", f"could not be examined: {error}", "please report it"))
    return findings


def _orch() -> Iterator[Finding]:
    yield Finding("orch", "ok", f"{__version__}, {Path(__file__).parents[1]}")
    yield Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")
    yield Finding("processor", "ok", f"{cores()} cores, {platform.machine()}")
    if platform.system() != "Linux":
        yield Finding("system", "note", platform.system(), "orch is tested on Linux only")


def _engine() -> Iterator[Finding]:
    from orchestrator.system.container_engine import build_command, connect

    try:
        engine = connect()
    except OrchError as error:
        yield Finding(
            "container engine", "note", error.why or error.message, "install Docker Engine, or use --runtime venv"
        )
        return
    kind = "Podman" if engine.is_podman else "Docker"
    rootless = ", rootless" if "rootless" in engine.security else ""
    yield Finding("container engine", "ok", f"{kind} {engine.version} at {engine.url}{rootless}")
    try:
        yield Finding("image builds", "ok", " ".join(build_command()[:1]))
    except OrchError as error:
        yield Finding("image builds", "problem", error.why or error.message, error.hint or "")
    yield _compose()
    yield _gpu_injection(engine)


def _compose() -> Finding:
    version = _output(["docker", "compose", "version", "--short"])
    if version:
        return Finding("Compose", "ok", version)
    return Finding("Compose", "note", "no plugin", "only for docker compose up: install docker-compose-plugin")


def _gpu_injection(engine: Any) -> Finding:
    from orchestrator.runtimes.docker.gpu_access import wiring_of

    try:
        return Finding("GPUs in containers", "ok", f"by {wiring_of(engine).way()}")
    except MachineError as error:
        if not look().gpus:
            return Finding("GPUs in containers", "note", "not set up; there is no GPU either")
        return Finding("GPUs in containers", "problem", error.why or error.message, error.hint or "")


def _gpus() -> Iterator[Finding]:
    machine = look()
    if machine.platform != "linux":
        kinds = {"wsl2": "Windows Subsystem for Linux 2", "jetson": machine.model or "Jetson"}
        yield Finding("platform", "ok", kinds[machine.platform])
    if machine.broken is not None:
        yield Finding("GPUs", "problem", machine.broken, BROKEN_HINT)
        return
    if machine.driver is not None:
        knows = f", CUDA up to {machine.cuda}" if machine.cuda else ""
        yield Finding("GPU driver", "ok", f"{machine.driver}{knows} (by {machine.source})")
    for number, gpu in enumerate(machine.gpus):
        yield Finding(f"GPU {number}", "ok", _described(gpu))
        if gpu.processes:
            using = ", ".join(f"{one.pid}{f' ({one.memory} MiB)' if one.memory else ''}" for one in gpu.processes)
            yield Finding(f"GPU {number} is used", "note", f"by the processes {using}", "another GPU: --device NUMBER")
    for note in machine.notes:
        yield Finding("GPUs", "problem", note, "")
    if not machine.gpus:
        yield Finding("GPUs", "note", machine.lacks or "none", "CPU variants run; for a GPU install NVIDIA's driver")


def _described(gpu: Gpu) -> str:
    free = "" if gpu.free is None else f", {gpu.free} of them free"
    slice_of = "" if gpu.parent is None else f", a MIG slice of {gpu.parent}"
    capability = f", compute capability {gpu.capability}" if gpu.capability else ""
    return f"{gpu.name}, {gpu.memory} MiB{free}{capability}, {gpu.uuid}{slice_of}"


def _environments() -> Iterator[Finding]:
    from orchestrator.catalog.loader import load_catalog
    from orchestrator.runtimes.venv import find_python, find_uv

    uv = find_uv()
    if uv is None:
        yield Finding("uv", "note", "not found", "pip install uv: quicker environments, and it brings missing Pythons")
    else:
        yield Finding("uv", "ok", f"{_output([uv, '--version'])}, {uv}")
    for stack in load_catalog().stacks.values():
        for name, variant in stack.spec.variants.items():
            if variant.device != "cpu":
                continue
            pythons = (variant.python, *variant.also_python)
            python = find_python(pythons)
            what = f"venv {stack.name}/{name}"
            if python is not None:
                yield Finding(what, "ok", str(python))
            elif uv is not None:
                yield Finding(what, "ok", f"uv will fetch Python {pythons[0]}")
            else:
                yield Finding(what, "problem", f"no Python {' or '.join(pythons)}", "pip install uv")


def _disk() -> Iterator[Finding]:
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    status: Status = "ok" if free > LITTLE_SPACE_GB else "note"
    step = "" if status == "ok" else "GPU stacks need 3 to 6 GB each; $ORCH_HOME moves the cache"
    yield Finding("disk", status, f"{free:.0f} GB free at {folder}", step)
    for name in ("weights", "envs"):
        size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        yield Finding(f"cache: {name}", "ok", f"{size / 1e6:.0f} MB")


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
