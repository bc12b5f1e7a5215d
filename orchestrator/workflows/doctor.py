"""Examine this machine for `orch doctor`: what it has, what it lacks, and the next step for each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from orchestrator.catalog import load_catalog
from orchestrator.errors import OrchError
from orchestrator.hardware import OR_CPU, Gpu, Machine, cores, detect_machine, explain_old_driver, find_next_step
from orchestrator.paths import home
from orchestrator.runtimes import RUNTIMES, Finding, get_runtime
from orchestrator.system import __version__

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
        yield Finding(
            "GPUs", "problem", machine.broken, f"{find_next_step(machine.broken, machine.platform)}; {OR_CPU}"
        )
        return
    if machine.driver is not None:
        newest_cuda = f", CUDA up to {machine.cuda}" if machine.cuda else ""
        yield Finding("GPU driver", "ok", f"{machine.driver}{newest_cuda} (by {machine.source})")
    for gpu in machine.gpus:
        yield Finding(f"GPU {gpu.label}", "ok", _describe(gpu))
        if gpu.processes:
            using = ", ".join(f"{one.pid}{f' ({one.memory} MiB)' if one.memory else ''}" for one in gpu.processes)
            step = "another GPU: --device NUMBER"
            yield Finding(f"GPU {gpu.label} is used", "note", f"by the processes {using}", step)
    for note in machine.notes:
        yield Finding("GPUs", "problem", note, find_next_step(note, machine.platform))
    if machine.assigned is not None:
        found = f"{machine.assigned} names a GPU that cannot be used: {machine.lacks}"
        yield Finding("GPUs", "problem", found, machine.reassign())
    elif not machine.gpus:
        has_driver = machine.source != "nothing"
        step = "see nvidia-smi -L and CUDA_VISIBLE_DEVICES" if has_driver else "install NVIDIA's driver"
        yield Finding("GPUs", "note", machine.lacks or "none", f"CPU variants run; for a GPU {step}")
    else:
        yield from _numbers()
        yield from _drivers(machine)


def _numbers() -> Iterator[Finding]:
    """Yield what a variable of numbers means, where one is set: CUDA itself may count in another order."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is not None:
        found = f"CUDA_VISIBLE_DEVICES={value} is read by nvidia-smi's numbers, as in this table and for --device"
        yield Finding("GPU numbers", "ok", found)


def _drivers(machine: Machine) -> Iterator[Finding]:
    """Yield the stacks whose variants for GPUs all need a newer driver, or have to be asked for."""
    for name, stack in load_catalog().stacks.items():
        advice = explain_old_driver(stack, machine.gpus)
        if advice is not None:
            needs, step = advice
            yield Finding(f"GPU driver for {name}", "note", f"{machine.driver} is too old: {needs}", step)


def _describe(gpu: Gpu) -> str:
    free = "" if gpu.free is None else f", {gpu.free} of them free"
    slice_of = "" if gpu.parent is None else f", a MIG slice of {gpu.parent}"
    capability = f", compute capability {gpu.capability}" if gpu.capability else ""
    memory = f"{gpu.memory} MiB" if gpu.memory else "memory not known"
    return f"{gpu.name}, {memory}{free}{capability}, {gpu.uuid}{slice_of}"


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
