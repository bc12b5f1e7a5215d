"""The venv runtime: workers are processes of this machine, in one virtual environment per variant."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.catalog import RUNNER, StackEntry, Variant, ensure_sources
from orchestrator.errors import MachineError
from orchestrator.hardware import MODULE, GpuCode, parse_gpu_code
from orchestrator.runtimes.base import (
    BuildOptions,
    Finding,
    Location,
    Prepared,
    Runtime,
    WorkerSpec,
    worker_environment,
)
from orchestrator.runtimes.build_inputs import build_inputs, build_lock_of, find_variant
from orchestrator.runtimes.environments import (
    ensure_environment,
    environment_folder,
    find_python,
    find_uv,
    is_complete,
    mark_used,
)
from orchestrator.runtimes.guest_contract import JOB_NAME, GuestPaths
from orchestrator.runtimes.limits import Limits
from orchestrator.runtimes.mounts import host_paths
from orchestrator.runtimes.process import ProcessWorker, inherited_variables, reap_processes, visible_gpus
from orchestrator.system import GuestTree, Report, read_output, write_text

GPU_CODE_NAME = "orch-binaries.json"
"""In the folder of an environment: what orch_runner.gpu.binaries printed."""


class VenvRuntime(Runtime):
    """Workers as processes of this machine. Isolated from other stacks, not from the machine."""

    name = "venv"
    is_contained = False

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        """Return the variant's environment."""
        inputs = build_inputs(stack, variant, options)
        folder = environment_folder(
            _environment_name(stack, variant), inputs.lock, _pythons(stack, variant), build_lock_of(stack, variant)
        )
        is_built = is_complete(folder)
        fill_folder = folder.parent if options.rebuild or not is_built else None
        return Location(str(folder), inputs.identity, is_built, fill_folder, gpu_code=_read_gpu_code(folder))

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        """Make the variant's environment unless it is complete. Raises BuildError, MachineError."""
        spec = find_variant(stack, variant)
        inputs = build_inputs(stack, variant, options)
        _require_no_arguments(stack, variant, spec)
        started = time.monotonic()
        ensure_sources(stack.name, inputs.sources, report, offline=options.offline)
        folder, fresh = ensure_environment(
            _environment_name(stack, variant),
            inputs.lock,
            _pythons(stack, variant),
            report,
            build_lock=build_lock_of(stack, variant),
            partial=spec.partial_lock,
            offline=options.offline,
            rebuild=options.rebuild,
        )
        if spec.device == "cuda" and not (folder / GPU_CODE_NAME).exists():
            _record_gpu_code(folder, report)
        seconds = time.monotonic() - started
        return Prepared(stack, variant, self.name, inputs.identity, str(folder), None, fresh, seconds)

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        """Return the host's own paths: nothing is mounted."""
        return host_paths(prepared, spec)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> ProcessWorker:
        """Start the runner with the environment's Python. Raises MachineError."""
        with GuestTree(spec.cache) as cache, suppress(FileExistsError):
            cache.make_folder("home")
        mark_used(Path(prepared.location))
        return ProcessWorker(spec, worker_command(prepared, spec), worker_process_environment(spec))

    def limits_in_force(self, workers: int) -> Limits:
        """Return the limits of each worker, which runs as the caller, root too."""
        return replace(super().limits_in_force(workers), user=(os.getuid(), os.getgid()))

    def reap(self, run: str, jobs: Path) -> int:
        """Kill the runners whose job folder is one of this run's."""
        return reap_processes(jobs)

    def findings(self, stacks: Sequence[StackEntry]) -> Iterator[Finding]:
        """Yield whether uv, and for each variant for the CPU a Python, is installed."""
        uv = find_uv()
        if uv is None:
            step = "pip install uv: it makes environments faster, and fetches missing Pythons"
            yield Finding("uv", "note", "not found", step)
        else:
            yield Finding("uv", "ok", f"{read_output([uv, '--version']).strip()}, {uv}")
        for stack in stacks:
            for name, variant in stack.spec.variants.items():
                if variant.device == "cpu":
                    yield _python_finding(f"venv {stack.name}/{name}", _pythons(stack, name), has_uv=uv is not None)


def worker_command(prepared: Prepared, spec: WorkerSpec) -> list[str]:
    """Return the runner's command line."""
    python = Path(prepared.location) / "bin" / "python"
    return [str(python), "-m", spec.module, str(spec.job / JOB_NAME)]


def worker_process_environment(spec: WorkerSpec) -> dict[str, str]:
    """Return the runner's variables: a few of the caller's, the worker's own, and the runner's package."""
    own = worker_environment(spec.threads, str(spec.cache), str(spec.cache / "home"))
    return {**inherited_variables(), **visible_gpus(spec.device), **own, "PYTHONPATH": str(RUNNER)}


def _environment_name(stack: StackEntry, variant: str) -> str:
    return f"{stack.name}-{variant}"


def _pythons(stack: StackEntry, variant: str) -> tuple[str, ...]:
    spec = find_variant(stack, variant)
    return (spec.python, *spec.also_python)


def _require_no_arguments(stack: StackEntry, variant: str, spec: Variant) -> None:
    """Raise MachineError for a variant whose build arguments only a Dockerfile can use."""
    needed = [name for name, argument in spec.build_args.items() if argument.default is None]
    if needed:
        raise MachineError(
            f"the variant {variant} of {stack.name} can only be built as an image",
            why=f"its Dockerfile needs {', '.join(needed)}: {spec.build_args[needed[0]].help}",
            hint="--runtime docker, or another --variant",
        )


def _record_gpu_code(folder: Path, report: Report) -> None:
    """Run orch_runner.gpu.binaries in an environment and keep what it prints there."""
    report("reading what its GPU code runs on")
    command = [str(folder / "bin" / "python"), "-m", MODULE]
    try:
        environment = {**inherited_variables(), "PYTHONPATH": str(RUNNER), "PYTHONDONTWRITEBYTECODE": "1"}
        answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
        parse_gpu_code(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report(f"cannot read what its GPU code runs on; the lists in stack.yaml are used: {error}")
        return
    write_text(folder / GPU_CODE_NAME, answer.stdout)


def _read_gpu_code(folder: Path) -> GpuCode | None:
    with suppress(OSError, ValueError):
        return parse_gpu_code((folder / GPU_CODE_NAME).read_text(encoding="utf-8"))
    return None


def _python_finding(what: str, pythons: Sequence[str], *, has_uv: bool) -> Finding:
    python = find_python(pythons)
    if python is not None:
        return Finding(what, "ok", str(python))
    if has_uv:
        return Finding(what, "ok", f"uv will fetch Python {pythons[0]}")
    return Finding(what, "problem", f"no Python {' or '.join(pythons)}", "pip install uv")
