"""What shared tasks need from the cluster that runs them; one implementation per kind of cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.paths import RunPaths
from orchestrator.system import Display


@dataclass(frozen=True)
class Submission:
    """A run handed to a cluster: the name of the executor that did it, and the job's number there."""

    executor: str
    job: str


@dataclass(frozen=True)
class QueuedTask:
    """A task that the cluster has not ended. `state`, `node` and `reason` are the cluster's own words."""

    index: int
    state: str
    node: str
    reason: str

    @property
    def is_running(self) -> bool:
        """Whether the task has a node."""
        return self.state == "RUNNING"


@dataclass(frozen=True)
class TaskAttempt:
    """One start of a task: number `index` of `count` tasks that share a run."""

    index: int
    count: int
    job: str | None
    """The task's own name in the cluster ("12_3"); None for a task started by hand."""
    restarts: int
    """Earlier starts of the same task."""
    node: str
    cores: int | None = None
    """CPU cores that the cluster gave the task; None: all of the node's."""


class Submitter(Protocol):
    """A cluster with a queue. A job is one run's tasks; `job` is its number, or the name of one of its tasks."""

    def require_commands(self) -> None:
        """Raise MachineError unless the cluster's commands are on this machine."""

    def find_attempt(self) -> TaskAttempt | None:
        """Return what this process is to the cluster; None outside of its jobs."""

    def list_tasks(self, job: str) -> list[QueuedTask] | None:
        """Return the tasks that are not over, by index; None while the cluster does not answer."""

    def explain_end(self, job: str) -> str:
        """Return where to read why tasks ended that recorded no reason themselves."""

    def requeue(self, job: str) -> str | None:
        """Have a running task start again later. Return why not, where it cannot."""

    def cancel_waiting(self, job: str) -> None:
        """End the tasks that have not started. Raises MachineError."""

    def cancel(self, paths: RunPaths, job: str, display: Display) -> None:
        """End all tasks, after the images they work on where possible. Raises MachineError."""
