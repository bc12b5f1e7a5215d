"""Executors: where the workers of a run are started; the protocol, and the registry of all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

from orchestrator.catalog import ModelEntry
from orchestrator.dispatch.outcome import Outcome
from orchestrator.dispatch.sharing import NoSharing, Sharing
from orchestrator.dispatch.submitter import Submission, Submitter, TaskAttempt
from orchestrator.errors import UsageError
from orchestrator.hardware import Gpu, Selection
from orchestrator.paths import RunPaths
from orchestrator.plan import Plan
from orchestrator.runtimes import NO_LIMITS, BuildOptions, Limits, Runtime
from orchestrator.system import Display, read_json_object, require_format, unknown_name

GivenSettings = Sequence[str] | Mapping[str, Any]
"""Settings as a user gives them: KEY=VALUE texts of a command line, or a mapping of a YAML file."""


class ExecutorSettings(Protocol):
    """Settings that only one executor has."""

    @property
    def wait(self) -> bool:
        """Whether `orch run` follows a submitted run until it is complete."""

    @classmethod
    def parse(cls, given: GivenSettings) -> Self:
        """Return `given`, completed from the user's settings file. Raises UsageError."""


@dataclass(frozen=True)
class NoSettings:
    """Settings of an executor that has none."""

    wait: bool = True

    @classmethod
    def parse(cls, given: GivenSettings) -> Self:
        """Raise UsageError if there are any."""
        if given:
            raise UsageError("this executor has no settings of its own", why=f"given: {', '.join(given)}")
        return cls()


@dataclass(frozen=True)
class Work:
    """A plan that is recorded in its run directory, and all that an executor needs to carry it out."""

    plan: Plan
    paths: RunPaths
    runtime: Runtime
    weights: Path
    """Folder of the model's weights."""
    devices: Sequence[str]
    """Devices that workers may use, written as in WorkerSpec.device."""
    workers: int | None = None
    """None: one on the CPU, `workers_per_gpu` on each GPU."""
    threads: int | None = None
    """Threads per worker; None: all cores, divided by the workers."""
    wait: bool = True
    """Wait while other runs use all GPUs."""
    leases: bool = True
    """Lease GPUs for this run; false where its workers already have theirs."""
    sharing: Sharing = field(default_factory=NoSharing)
    workers_per_gpu: int | Literal["auto"] | None = None
    """None: one; "auto": as many as fit into the GPU's free memory."""
    gpus: Sequence[Gpu] = ()
    """This machine's GPUs, with their memory."""
    build: BuildOptions = field(default_factory=BuildOptions)
    """How the variant was prepared, for machines that prepare it again."""
    limits: Limits = NO_LIMITS
    """What the user asked for."""
    batch_timeout: float | None = None
    """Seconds for one batch, 0: no limit; None: derived from what batches took."""
    settings: object = None
    """An instance of the executor's `settings_type`."""


class Executor(Protocol):
    """Decides where workers run. The runtime decides how, and neither depends on the other."""

    @property
    def settings_type(self) -> type[ExecutorSettings]:
        """The class of `Work.settings`."""

    @property
    def submitter(self) -> Submitter | None:
        """The cluster that workers run on; None where they run on this machine."""

    def select(self, entry: ModelEntry, variant: str | None, device: str | None) -> tuple[Selection, tuple[Gpu, ...]]:
        """Select variant and device for the workers' machines; also return the local GPUs that decided it.

        AUTO stands for what only the workers' machines can decide. Raises UsageError, MachineError.
        """

    def execute(self, work: Work, display: Display) -> Outcome:
        """Have the missing shards predicted, and collect all of them unless other machines will do so later.

        Raises UsageError, Interrupted, RunError, MachineError.
        """

    def is_active(self, submission: Submission) -> bool | None:
        """Return whether the submitted run has tasks left; None while its cluster does not answer."""


def _import_when_called(module: str, class_name: str) -> Callable[[], Executor]:
    """Return a factory of a class in a module that itself imports this one."""

    def make() -> Executor:
        return cast(Executor, getattr(importlib.import_module(module), class_name)())

    return make


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "local": _import_when_called("orchestrator.dispatch.local", "LocalExecutor"),
    "slurm": _import_when_called("orchestrator.dispatch.slurm.executor", "SlurmExecutor"),
}


def get_executor(name: str) -> Executor:
    """Return the executor of that name. Raises UsageError."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return EXECUTORS[name]()


def get_submitter(submission: Submission) -> Submitter:
    """Return the cluster that a run was handed to. Raises UsageError."""
    submitter = get_executor(submission.executor).submitter
    if submitter is None:
        raise UsageError(f"the executor {submission.executor} submits nothing")
    return submitter


def find_attempt() -> tuple[TaskAttempt, Submitter] | None:
    """Return the cluster's task that this process is, and the cluster; None for a task started by hand."""
    for name in EXECUTORS:
        submitter = get_executor(name).submitter
        attempt = None if submitter is None else submitter.find_attempt()
        if submitter is not None and attempt is not None:
            return attempt, submitter
    return None


SUBMISSION_FORMAT = "orch-submission/1"


def find_submission(paths: RunPaths) -> Submission | None:
    """Return the last job that was submitted for a run; None for a run that was never submitted."""
    for name in EXECUTORS:
        try:
            document = read_json_object(paths.submission(name))
        except (OSError, ValueError):
            continue
        hint = "use the version that submitted the run"
        require_format(document, SUBMISSION_FORMAT, paths.submission(name), hint)
        if isinstance(document.get("job"), str | int):
            return Submission(name, str(document["job"]))
    return None


def refuse_active_submission(paths: RunPaths) -> None:
    """Raise UsageError while a cluster works on the run: workers started here would write the same files."""
    submission = find_submission(paths)
    if submission is not None and get_executor(submission.executor).is_active(submission):
        raise UsageError(f"{paths.root} is running as job {submission.job}", hint=f"orch attach {paths.root}")
