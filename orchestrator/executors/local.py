"""The local executor: workers on this machine."""

from __future__ import annotations

from orchestrator.runtimes.base import Prepared, Runtime, Worker, WorkerSpec


class LocalExecutor:
    """Starts every worker here, by the runtime's own means."""

    def __init__(self, runtime: Runtime, prepared: Prepared) -> None:
        self._runtime, self._prepared = runtime, prepared

    def start(self, spec: WorkerSpec) -> Worker:
        """Start a worker. Raises MachineError."""
        return self._runtime.start(self._prepared, spec)
