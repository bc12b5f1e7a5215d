"""A runtime for tests that builds nothing and starts workers as processes of the Python that runs the tests."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.catalog.loader import StackEntry
from orchestrator.hardware.gpu_code import GpuCode
from orchestrator.runtimes.base import BuildOptions, Location, Prepared, Runtime, WorkerSpec
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.guest_contract import JOB_NAME, GuestPaths
from orchestrator.runtimes.mounts import host_paths
from orchestrator.runtimes.process import ProcessWorker, reap_processes
from orchestrator.runtimes.venv import worker_process_environment
from orchestrator.system.display import Report

CODE = GpuCode({"torch": "2.0"}, "11.8", None, ("8.0",), ())


class PlainRuntime(Runtime):
    """Workers as processes of the Python that runs orch; a file that says "built" is all there is to build."""

    name = "plain"
    folder = Path()

    def locate(self, stack: StackEntry, variant: str, options: BuildOptions) -> Location:
        identity = build_inputs(stack, variant, options).identity
        marker = self.folder / f"{stack.name}-{variant}-{identity}"
        return Location(str(marker), identity, marker.exists(), self.folder, fill_factor=2, gpu_code=CODE)

    def prepare(self, stack: StackEntry, variant: str, options: BuildOptions, report: Report) -> Prepared:
        location = self.locate(stack, variant, options)
        Path(location.path).write_text("built")
        return Prepared(stack, variant, self.name, location.identity, location.path, fresh=not location.is_built)

    def guest_paths(self, prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
        return host_paths(prepared, spec)

    def start(self, prepared: Prepared, spec: WorkerSpec) -> ProcessWorker:
        command = [sys.executable, "-m", spec.module, str(spec.job / JOB_NAME)]
        return ProcessWorker(spec, command, worker_process_environment(spec))

    def reap(self, run: str, jobs: Path) -> int:
        return reap_processes(jobs)
