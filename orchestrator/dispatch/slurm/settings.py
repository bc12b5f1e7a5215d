"""Settings of the Slurm executor (`--slurm KEY=VALUE`, slurm.yaml), and the job script made from them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.dispatch.shared.claims import LEASE_SECONDS
from orchestrator.errors import UsageError
from orchestrator.paths import user_executor_settings
from orchestrator.system import YamlSource, describe_errors

DEFAULT_TASKS = 4
NO_GRES = "none"


def _require_one_line(value: str) -> str:
    if not value.strip() or any(ord(character) < 32 for character in value):
        raise ValueError("must be one line of text")
    return value


OneLine = Annotated[str, AfterValidator(_require_one_line)]


class SlurmSettings(BaseModel):
    """How a run is submitted. Most settings are sbatch's options of the same name; None: the site's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: OneLine | None = None
    account: OneLine | None = None
    qos: OneLine | None = None
    time: OneLine | None = None
    mem: OneLine | None = None
    constraint: OneLine | None = None
    gres: OneLine | None = None
    """Default: gpu:1 for variants that use a GPU, nothing for others; "none": nothing."""
    gpus_per_task: int | None = Field(default=None, ge=1, le=64)
    cpus_per_task: int | None = Field(default=None, ge=1)
    sbatch: tuple[OneLine, ...] = ()
    """Further options of sbatch, as written after #SBATCH."""
    setup: tuple[OneLine, ...] = ()
    """Shell lines run before a task starts: module load …"""
    tasks: int = Field(default=DEFAULT_TASKS, ge=1, le=100_000)
    """Tasks of the array; never more than there are shards."""
    throttle: int | None = Field(default=None, ge=1)
    """Most tasks that run at the same time."""
    warning: int = Field(default=60, ge=1)
    """Seconds before the time limit at which a task gets SIGTERM, stops and is requeued."""
    lease: float = Field(default=LEASE_SECONDS, gt=0)
    """Seconds after which other tasks take the shards of a task that does not renew its claims."""
    wait: bool = True
    """Follow the run until it is complete."""

    @classmethod
    def parse(cls, given: Sequence[str] | Mapping[str, Any]) -> Self:
        """Return the given settings over those of the user's slurm.yaml. Raises UsageError, SpecError."""
        return cls.merge(given, user_executor_settings("slurm"))

    @classmethod
    def merge(cls, given: Sequence[str] | Mapping[str, Any], file: Path) -> Self:
        """Return the given settings over those of `file`, which need not exist; lists are joined.

        `given`: "KEY=VALUE" texts, repeatable for lists, or a mapping. Raises UsageError, SpecError.
        """
        values = cls._read(file) if file.is_file() else {}
        for name, value in _as_mapping(given, cls._list_fields()).items():
            if isinstance(value, list | tuple):
                values[name] = (*values.get(name, ()), *value)
            elif value is not None:
                values[name] = value
        return cls._validate(values, "--slurm")

    @classmethod
    def _read(cls, file: Path) -> dict[str, Any]:
        source = YamlSource(file)
        values = source.value or {}
        if not isinstance(values, dict):
            raise UsageError(f"{file}: must be a mapping of settings", hint="docs/clusters.md has an example")
        cls._validate(values, source)
        return values

    @classmethod
    def _validate(cls, values: Mapping[str, Any], source: YamlSource | str) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first, *others = describe_errors(error, source, cls)
            why = "\n".join(others) or None
            raise UsageError(first, why=why, hint="docs/clusters.md lists the settings") from None

    @classmethod
    def _list_fields(cls) -> set[str]:
        return {name for name, field in cls.model_fields.items() if field.default == ()}


def _as_mapping(given: Sequence[str] | Mapping[str, Any], lists: set[str]) -> Mapping[str, Any]:
    """Return KEY=VALUE texts as a mapping. A list keeps all values of a key, others the last one."""
    if isinstance(given, Mapping):
        return given
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--slurm {text}: write it as KEY=VALUE", hint="docs/clusters.md lists the settings")
        values[name] = [*values.get(name, ()), value] if name in lists else value
    return values


@dataclass(frozen=True)
class ArrayJob:
    """One array of tasks, as its job script describes it."""

    name: str
    root: Path
    """The run directory."""
    tasks: int
    uses_gpu: bool
    python: Path
    """The interpreter that runs orch; on the shared file system."""
    environment: Mapping[str, str]


def make_job_script(job: ArrayJob, settings: SlurmSettings) -> str:
    """Return the script for sbatch. Each task runs the same command on the run directory, once or again."""
    lines = [f"#SBATCH {option}" for option in _sbatch_options(job, settings)]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(job.environment.items())]
    # exec: Slurm sends its signals to the script's process, which must be the task itself.
    command = f"exec {shlex.quote(str(job.python))} -m orchestrator.dispatch.shared.task {shlex.quote(str(job.root))}"
    return "\n".join(["#!/bin/bash", *lines, *exports, *settings.setup, command, ""])


def _sbatch_options(job: ArrayJob, settings: SlurmSettings) -> list[str]:
    throttle = f"%{settings.throttle}" if settings.throttle else ""
    log = str(job.root / "logs").replace("%", "%%")
    options = {
        "job-name": job.name,
        "array": f"0-{job.tasks - 1}{throttle}",
        "output": f"{log}/task-%a.log",
        "open-mode": "append",
        "requeue": "",
        "signal": f"B:TERM@{settings.warning}",
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.time,
        "mem": settings.mem,
        "constraint": settings.constraint,
        "cpus-per-task": settings.cpus_per_task,
        **_gpu_options(job, settings),
    }
    lines = [
        # sbatch splits the lines of a script into words like a shell
        f"--{name}" + (f"={shlex.quote(str(value))}" if value != "" else "")
        for name, value in options.items()
        if value is not None
    ]
    return [*lines, *settings.sbatch]


def _gpu_options(job: ArrayJob, settings: SlurmSettings) -> dict[str, Any]:
    if settings.gpus_per_task is not None:
        return {"ntasks": 1, "gpus-per-task": settings.gpus_per_task}
    if settings.gres is not None:
        return {} if settings.gres == NO_GRES else {"gres": settings.gres}
    return {"gres": "gpu:1"} if job.uses_gpu else {}
