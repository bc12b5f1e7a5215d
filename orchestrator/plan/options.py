"""The options of a run: what the command line and an orch.yaml may ask for, with their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.runtimes import BuildOptions, Limits, parse_size, parse_user

MAX_WORKERS_PER_GPU = 64


def _parse_workers_per_gpu(value: object) -> object:
    text = str(value)
    if value is None or text == "auto":
        return value
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_WORKERS_PER_GPU):
        raise ValueError(f"must be a number from 1 to {MAX_WORKERS_PER_GPU}, or auto")
    return int(text)


def _parse_size(value: object) -> object:
    return None if value is None else parse_size(value)


def _parse_user(value: object) -> object:
    return None if value is None else parse_user(value)


def _refuse_empty(value: object) -> object:
    if value == "":
        raise ValueError("must not be empty: it would be the working directory")
    return value


Size = Annotated[int | None, BeforeValidator(_parse_size, json_schema_input_type=str | int | None)]
AtLeastOne = Annotated[int, Field(ge=1)]


class CommonOptions(BaseModel):
    """Options that the command line and an orch.yaml write in the same way. None: the default of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str = "auto"
    executor: str = "local"
    variant: str | None = None
    device: str | None = None
    exif: Literal["apply", "ignore"] = "apply"
    follow_links: bool = False
    """Follow links in input folders to files outside the named folders."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    max_detections: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    shard_size: AtLeastOne | None = None
    workers: AtLeastOne | None = None  # none: one on the CPU, one per GPU
    workers_per_gpu: Annotated[int | Literal["auto"] | None, BeforeValidator(_parse_workers_per_gpu)] = None
    """"auto": as many as fit into the GPU's free memory, where the model states how much it needs."""
    wait: bool = True  # wait while other runs use all GPUs; on a cluster, until the run is complete
    threads: AtLeastOne | None = None
    user: Annotated[tuple[int, int] | None, BeforeValidator(_parse_user, json_schema_input_type=str | None)] = None
    """Uid and gid of workers in containers; None: the caller's, nobody's for root."""
    memory: Size = None
    """Bytes of each worker; None: a share of the machine's memory."""
    processes: AtLeastOne | None = None
    file_size: Size = None
    """Bytes of the largest file that a worker may write."""
    out_size: Size = None
    """Bytes of results that a worker may have under way."""
    batch_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Seconds that a worker may take for one batch; 0: no limit; None: derived from what batches took."""
    offline: bool = False
    warm: bool | None = None  # true: only warm workers; False: none; None: warm workers where fitting ones are up
    spool: Annotated[Path | None, BeforeValidator(_refuse_empty)] = None

    @property
    def limits(self) -> Limits:
        """The limits of workers that were asked for."""
        return Limits(self.user, self.memory, self.processes, self.file_size, self.out_size)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: object) -> object:
        """Treat an option that is left empty as one that is not given."""
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if value is not None}


class RunOptions(CommonOptions):
    """All options of one run."""

    images: Sequence[str]
    out: Annotated[Path | None, BeforeValidator(_refuse_empty)] = None
    update: bool = False
    """Change the folder's run where images, model or weights are others; rows that stay the same are kept."""
    image_root: Annotated[Path | None, BeforeValidator(_refuse_empty)] = None
    settings: Sequence[str] = ()  # settings of the model, NAME=VALUE
    executor_settings: tuple[str, ...] = ()  # settings of the executor, KEY=VALUE; the executor checks them
    build: BuildOptions = BuildOptions()
    weights_folder: Path | None = None  # use the weights in this folder instead of those in the cache
