"""What an executor is: the place where a runtime's workers are started."""

from __future__ import annotations

from typing import Protocol

from orchestrator.runtimes.base import Prepared, Runtime, Worker, WorkerSpec


class Executor(Protocol):
    """Starts workers somewhere; orthogonal to the runtime, which says how."""

    def __init__(self, runtime: Runtime, prepared: Prepared) -> None: ...

    def start(self, spec: WorkerSpec) -> Worker:
        """Start a worker whose job folder is written. Raises MachineError."""
