"""Examine this machine for `orch doctor`: what it has, what it lacks, and the next step for each."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from orchestrator import __version__
from orchestrator.catalog import load_catalog
from orchestrator.errors import OrchError
from orchestrator.hardware import BROKEN_HINT, Gpu, cores, detect_machine
from orchestrator.paths import home
from orchestrator.runtimes import RUNTIMES, Finding, get_runtime

LOW_SPACE_GB = 20


def examine_machine() -> list[Finding]:
    """Return the findings of all checks. A check that fails unexpectedly is a finding of its own."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [("orch", _orch), ("GPUs", _gpus)]
    checks += [(f"runtime {name}", partial(_runtime, name)) for name in RUNTIMES]
    checks += [("disk", _disk)]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except OrchError as error:
            findings.append(Finding(name, "problem", error.message, error.hint or ""))
        except Exception as error:
            findings.append(Finding(name, "problem", f"cannot be examined: {error}", "please report it"))
    return findings


def _orch() -> Iterator[Finding]:
    yield Finding("orch", "ok", f"{__version__}, {Path(__file__).parents[1]}")
    yield Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")
    yield Finding("processor", "ok", f"{cores()} cores, {platform.machine()}")
    if platform.system() != "Linux":
        yield Finding("system", "note", platform.system(), "orch is tested on Linux only")


def _gpus() -> Iterator[Finding]:
    machine = detect_machine()
    if machine.platform != "linux":
        kinds = {"wsl2": "Windows Subsystem for Linux 2", "jetson": machine.model or "Jetson"}
        yield Finding("platform", "ok", kinds[machine.platform])
    if machine.broken is not None:
        yield Finding("GPUs", "problem", machine.broken, BROKEN_HINT)
        return
    if machine.driver is not None:
        newest_cuda = f", CUDA up to {machine.cuda}" if machine.cuda else ""
        yield Finding("GPU driver", "ok", f"{machine.driver}{newest_cuda} (by {machine.source})")
    for number, gpu in enumerate(machine.gpus):
        yield Finding(f"GPU {number}", "ok", _describe(gpu))
        if gpu.processes:
            using = ", ".join(f"{one.pid}{f' ({one.memory} MiB)' if one.memory else ''}" for one in gpu.processes)
            yield Finding(f"GPU {number} is used", "note", f"by the processes {using}", "another GPU: --device NUMBER")
    for note in machine.notes:
        yield Finding("GPUs", "problem", note, "")
    if not machine.gpus:
        yield Finding("GPUs", "note", machine.lacks or "none", "CPU variants run; for a GPU install NVIDIA's driver")


def _describe(gpu: Gpu) -> str:
    free = "" if gpu.free is None else f", {gpu.free} of them free"
    slice_of = "" if gpu.parent is None else f", a MIG slice of {gpu.parent}"
    capability = f", compute capability {gpu.capability}" if gpu.capability else ""
    return f"{gpu.name}, {gpu.memory} MiB{free}{capability}, {gpu.uuid}{slice_of}"


def _runtime(name: str) -> Iterator[Finding]:
    return get_runtime(name).findings(tuple(load_catalog().stacks.values()))


def _disk() -> Iterator[Finding]:
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    where = f"{free:.0f} GB free at {folder}"
    if free > LOW_SPACE_GB:
        yield Finding("disk", "ok", where)
    else:
        yield Finding("disk", "note", where, "GPU stacks need 3 to 6 GB each; $ORCH_HOME moves the cache")
    for name in ("weights", "envs"):
        size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        yield Finding(f"cache: {name}", "ok", f"{size / 1e6:.0f} MB")
