"""What is asked of Slurm: options from the command line and the user's file, and the job script made of them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.dispatch.shared.claims import LEASE_SECONDS
from orchestrator.errors import UsageError
from orchestrator.system.yaml_source import YamlSource, describe_errors

DEFAULT_TASKS = 4
NO_GRES = "none"


def _one_line(value: str) -> str:
    if not value.strip() or any(ord(character) < 32 for character in value):
        raise ValueError("must be one line of text")
    return value


Line = Annotated[str, AfterValidator(_one_line)]


class SlurmOptions(BaseModel):
    """How a run is put to Slurm. Most are sbatch's own options of the same name; None: as the site has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    time: Line | None = None
    mem: Line | None = None
    constraint: Line | None = None
    gres: Line | None = None
    """Default: gpu:1 for variants that use a GPU, nothing for others; "none": nothing."""
    gpus_per_task: int | None = Field(default=None, ge=1, le=64)
    cpus_per_task: int | None = Field(default=None, ge=1)
    sbatch: tuple[Line, ...] = ()
    """More options of sbatch, as they would follow #SBATCH."""
    setup: tuple[Line, ...] = ()
    """Lines of shell before a task starts: module load …"""
    tasks: int = Field(default=DEFAULT_TASKS, ge=1, le=100_000)
    """Tasks of the array; never more than there are shards."""
    throttle: int | None = Field(default=None, ge=1)
    """So many tasks at most run at a time."""
    warning: int = Field(default=60, ge=1)
    """Seconds before the time limit at which a task is told to stop and have itself requeued."""
    lease: float = Field(default=LEASE_SECONDS, gt=0)
    """Seconds after which the shards of a task that is not heard of go to others."""
    wait: bool = True
    """Stay attached to the run until it is complete."""


def slurm_options(file: Path, given: Mapping[str, Any]) -> SlurmOptions:
    """The user's file under what was given for this run: a value given wins, lists are joined. Raises UsageError."""
    values: dict[str, Any] = {}
    if file.is_file():
        source = YamlSource(file)
        values = source.value or {}
        if not isinstance(values, dict):
            raise UsageError(f"{file}: a mapping of options is expected", hint="docs/clusters.md has an example")
        _validated(values, source)
    for name, value in given.items():
        if isinstance(value, list | tuple):
            values[name] = (*values.get(name, ()), *value)
        elif value is not None:
            values[name] = value
    return _validated(values, "the options for Slurm")


def _validated(values: Mapping[str, Any], source: YamlSource | str) -> SlurmOptions:
    try:
        return SlurmOptions.model_validate(values)
    except ValidationError as error:
        first, *others = describe_errors(error, source, SlurmOptions)
        raise UsageError(first, why="\n".join(others) or None) from None


@dataclass(frozen=True)
class Job:
    """One array of tasks, as a job script has to say it."""

    name: str
    root: Path
    """The run directory."""
    tasks: int
    uses_gpu: bool
    python: Path
    """The interpreter orch runs under; on the shared file system."""
    environment: Mapping[str, str]


def job_script(job: Job, options: SlurmOptions) -> str:
    """The script sbatch is given: one array, each task the same command on the run directory, safe to be run again."""
    lines = [f"#SBATCH {option}" for option in _sbatch_options(job, options)]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.environment.items())]
    # exec: Slurm's signals go to the script's process, which must be the task's own.
    command = f"exec {shlex.quote(str(job.python))} -m orchestrator.dispatch.shared.task {shlex.quote(str(job.root))}"
    return "\n".join(["#!/bin/bash", *lines, *exports, *options.setup, command, ""])


def _sbatch_options(job: Job, options: SlurmOptions) -> list[str]:
    throttle = f"%{options.throttle}" if options.throttle else ""
    log = str(job.root / "logs").replace("%", "%%")
    found = {
        "job-name": job.name,
        "array": f"0-{job.tasks - 1}{throttle}",
        "output": f"{log}/task-%a.log",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:TERM@{options.warning}",
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "time": options.time,
        "mem": options.mem,
        "constraint": options.constraint,
        "cpus-per-task": options.cpus_per_task,
        **_gpu_options(job, options),
    }
    written = [f"--{name}" + (f"={_quoted(str(value))}" if value != "" else "") for name, value in _given(found)]
    return [*written, *options.sbatch]


def _given(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in found.items() if value is not None]


def _gpu_options(job: Job, options: SlurmOptions) -> dict[str, Any]:
    if options.gpus_per_task is not None:
        return {"ntasks": 1, "gpus-per-task": options.gpus_per_task}
    if options.gres is not None:
        return {} if options.gres == NO_GRES else {"gres": options.gres}
    return {"gres": "gpu:1"} if job.uses_gpu else {}


def _quoted(value: str) -> str:
    """As sbatch reads the lines of a script: like a shell."""
    return shlex.quote(value)
