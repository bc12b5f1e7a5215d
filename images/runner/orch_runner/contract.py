"""Read and check job.json and queued shards. Imports nothing heavy: a bad job is refused at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Tuple, TypeVar

CONTRACT = "orch-job/2"
SHARD_FORMAT = "orch-shard/2"

_Number = TypeVar("_Number", int, float)


class JobRefused(Exception):
    """The job is invalid; the message names the wrong field."""


class Fatal(Exception):
    """An error that ends the worker; `category` and `exit_code` are those of orch_runner.__main__."""

    def __init__(self, category: str, exit_code: int, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.category = category
        self.exit_code = exit_code
        self.hint = hint


@dataclass(frozen=True)
class WeightFile:
    """One weights file: under paths.weights, or inside an installed package."""

    file: str
    sha256: Optional[str]
    package: Optional[str]


@dataclass(frozen=True)
class NativeFormat:
    """How the predictor's own output maps to the standard one."""

    box_order: str
    class_base: int
    class_map: Tuple[int, ...]


@dataclass(frozen=True)
class RunnerJob:
    """The checked content of job.json; orch_runner.__main__ explains the fields."""

    run: str
    worker: str
    plan: str
    predictor: str
    model_name: str
    architecture: str
    task: str
    settings: Mapping[str, Any]
    config: Optional[str]
    weights: Mapping[str, WeightFile]
    native: NativeFormat
    device: str
    exif: str
    score_threshold: Optional[float]
    max_detections: Optional[int]
    max_pixels: int
    batch_size: int
    threads: int
    readers: int
    attributes: int
    image_scores: bool
    masks: bool
    pixels: Optional[str]
    alive_timeout: float
    part_every: float
    max_file_bytes: int
    decode_timeout: float
    data: Path
    weights_dir: Path
    out: Path
    cache: Path
    queue: Path
    stack: Path
    sources: Mapping[str, Path]


@dataclass(frozen=True)
class ImageRef:
    """One image to predict: its index in the run, its public name, and its path under paths.data.

    `size` and `mtime_ns` are the file's when the host listed it; None if they are not to be checked.
    """

    index: int
    file: str
    path: str
    size: Optional[int] = None
    mtime_ns: Optional[int] = None


@dataclass(frozen=True)
class QueuedShard:
    """A shard file of the queue folder."""

    number: int
    images: Tuple[ImageRef, ...]
    skip: Mapping[int, str]
    careful: bool
    alone: FrozenSet[int]


def read_job(path: Path) -> RunnerJob:
    """Read and check a job file. Raises JobRefused."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobRefused(f"cannot read {path}: {error}") from error
    version = raw.get("contract") if isinstance(raw, dict) else None
    if version != CONTRACT:
        raise JobRefused(
            f"unknown contract {version!r}; this runner reads {CONTRACT} and was built by another version of orch"
        )
    try:
        return _make_job(raw)
    except KeyError as error:
        raise JobRefused(f"{path} has no field {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise JobRefused(f"{path} has a field of the wrong kind: {error}") from error


def _make_job(raw: Dict[str, Any]) -> RunnerJob:
    model, paths = raw["model"], raw["paths"]
    return RunnerJob(
        run=str(raw["run"]),
        worker=str(raw["worker"]),
        plan=str(raw["plan"]),
        predictor=str(raw["predictor"]),
        model_name=str(model["name"]),
        architecture=str(model.get("architecture") or model["name"]),
        task=str(model["task"]),
        settings=dict(model["settings"]),
        config=None if model.get("config") is None else str(model["config"]),
        weights={key: _make_weight(value) for key, value in model["weights"].items()},
        native=_make_native(raw["native"]),
        device=str(raw["device"]),
        exif=_check_choice(raw, "exif", ("apply", "ignore")),
        score_threshold=_check_optional(raw, "score_threshold", float, 0.0),
        max_detections=_check_optional(raw, "max_detections", int, 1),
        max_pixels=_check_minimum(raw, "max_pixels", int, 1),
        batch_size=_check_minimum(raw, "batch_size", int, 1),
        threads=_check_minimum(raw, "threads", int, 1),
        readers=_check_minimum(raw, "readers", int, 1),
        attributes=_check_minimum(raw, "attributes", int, 0),
        image_scores=bool(raw["image_scores"]),
        masks=bool(raw["masks"]),
        pixels=None if raw["pixels"] is None else _check_choice(raw, "pixels", ("probability",)),
        alive_timeout=_check_minimum(raw, "alive_timeout", float, 0.0),
        part_every=_check_minimum(raw, "part_every", float, 0.0),
        max_file_bytes=_check_minimum(raw, "max_file_bytes", int, 1),
        decode_timeout=_check_minimum(raw, "decode_timeout", float, 0.001),
        data=Path(paths["data"]),
        weights_dir=Path(paths["weights"]),
        out=Path(paths["out"]),
        cache=Path(paths["cache"]),
        queue=Path(paths["queue"]),
        stack=Path(paths["stack"]),
        sources={str(name): Path(folder) for name, folder in paths["sources"].items()},
    )


def _make_weight(raw: Mapping[str, Any]) -> WeightFile:
    return WeightFile(str(raw["file"]), raw["sha256"], raw["package"])


def _make_native(raw: Mapping[str, Any]) -> NativeFormat:
    order = _check_choice(raw, "box_order", ("xyxy", "yxyx"))
    return NativeFormat(order, int(raw["class_base"]), tuple(int(value) for value in raw["class_map"]))


def _check_choice(raw: Mapping[str, Any], name: str, allowed: Tuple[str, ...]) -> str:
    value = raw[name]
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(allowed)}")
    return str(value)


def _check_minimum(raw: Mapping[str, Any], name: str, kind: Callable[[Any], _Number], minimum: _Number) -> _Number:
    value = kind(raw[name])
    if not value >= minimum:
        raise ValueError(f"{name} is {value}, must be at least {minimum}")
    return value


def _check_optional(
    raw: Mapping[str, Any], name: str, kind: Callable[[Any], _Number], minimum: _Number
) -> Optional[_Number]:
    return None if raw[name] is None else _check_minimum(raw, name, kind, minimum)


def _make_image(raw: Mapping[str, Any]) -> ImageRef:
    size, mtime_ns = (None if raw[name] is None else int(raw[name]) for name in ("size", "mtime_ns"))
    return ImageRef(int(raw["index"]), str(raw["file"]), str(raw["path"]), size, mtime_ns)


def read_queued_shard(path: Path) -> QueuedShard:
    """Read and check a shard file of the queue. Raises JobRefused."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        images: List[ImageRef] = [_make_image(image) for image in raw["images"]]
        return QueuedShard(
            number=int(raw["shard"]),
            images=tuple(images),
            skip={int(index): str(reason) for index, reason in raw["skip"].items()},
            careful=bool(raw["careful"]),
            alone=frozenset(int(index) for index in raw["alone"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobRefused(f"cannot read shard {path}: {error!r}") from error
