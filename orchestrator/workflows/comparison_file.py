"""orch.yaml: a whole comparison in one file. Common settings and a model's own are those of `RunOptions`, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pydantic
from pydantic import AfterValidator, BeforeValidator, ValidationError, create_model

from orchestrator.catalog.loader import Catalog
from orchestrator.catalog.spec import NAME_PATTERN, SettingValue, Spec
from orchestrator.dispatch.slurm.settings import slurm_options
from orchestrator.errors import OrchError, SpecError
from orchestrator.paths import user_slurm_options
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.base import BuildOptions
from orchestrator.system.yaml_source import YamlSource, spec_error
from orchestrator.workflows.batch import Asked

ELSEWHERE = ("images", "image_root", "out", "weights_folder")
"""Options of a run that the file says at another place, or not at all."""
LEAST = {"workers": 1, "threads": 1, "batch_size": 1, "shard_size": 1, "max_detections": 1}
CHOICES = {"exif": Literal["apply", "ignore"]}


def _optional(cls: type, leave_out: tuple[str, ...] = (), **instead: Any) -> dict[str, Any]:
    """Fields of a pydantic model like those of a dataclass, each of which may be left out."""
    hints = {**get_type_hints(cls), **instead}
    return {one.name: _field(one, hints[one.name]) for one in fields(cls) if one.name not in leave_out}


def _field(one: Field[Any], hint: Any) -> Any:
    least = LEAST.get(one.name)
    bounds = {"ge": 0, "le": 1} if one.name == "score_threshold" else {"ge": least} if least else {}
    default = None if one.default is MISSING else one.default
    return hint | None, pydantic.Field(default=default, **bounds)  # type: ignore[call-overload]


Settings = Mapping[str, SettingValue]
BuildSpec: Any = create_model("BuildSpec", __base__=Spec, **_optional(BuildOptions, ("rebuild", "offline")))
RunSettings: Any = create_model(
    "RunSettings", __base__=Spec, **_optional(RunOptions, ELSEWHERE, settings=Settings, build=BuildSpec, **CHOICES)
)
"""What may be said of a run, for all models or for one."""

Name = Annotated[str, pydantic.StringConstraints(pattern=NAME_PATTERN[:-1] + r"\+*$", max_length=64)]
ModelSpec: Any = create_model("ModelSpec", __base__=RunSettings, model=(str, ...), name=(Name | None, None))


def _as_mapping(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class CompareSpec(Spec):
    """How runs are compared; see orch compare."""

    iou: Literal["segm", "bbox"] = "segm"
    categories: tuple[str | int, ...] = ()
    align: bool = False
    resamples: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 1000
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    min_score: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5


class ReportSpec(Spec):
    """What the page holds; see orch report."""

    title: str | None = None
    max_images: Annotated[int, pydantic.Field(ge=1)] = 240
    max_megabytes: Annotated[float, pydantic.Field(ge=0.1)] = 16.0
    min_score: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.3


def _not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("give at least one")
    return value


class ComparisonSpec(Spec):
    """One orch.yaml. Paths are relative to its folder."""

    models: Annotated[
        tuple[Annotated[ModelSpec, BeforeValidator(_as_mapping)], ...],
        AfterValidator(_not_empty),
    ]
    images: Annotated[tuple[str, ...], BeforeValidator(_as_list), AfterValidator(_not_empty)]
    image_root: str | None = None
    annotations: str | None = None
    out: str | None = None
    """Folder of all that is made; the file's name without its ending by default."""
    run: RunSettings = RunSettings()
    compare: CompareSpec = CompareSpec()
    report: ReportSpec | Literal[False] = ReportSpec()


@dataclass(frozen=True)
class ComparisonFile:
    """An orch.yaml, resolved: the runs that it asks for, and what is made of them."""

    path: Path
    out: Path
    asked: tuple[Asked, ...]
    annotations: Path | None
    image_root: Path | None
    compare: CompareSpec
    report: ReportSpec | None


def read_comparison(path: Path, catalog: Catalog) -> ComparisonFile:
    """Read and check a file before anything is run. Raises SpecError naming file, line and field."""
    source = YamlSource(path)
    if not isinstance(source.value, dict):
        raise SpecError(f"{path}:1: an orch.yaml is a mapping", hint="orch new comparison")
    try:
        spec = ComparisonSpec.model_validate(source.value)
    except ValidationError as error:
        raise spec_error(error, source, ComparisonSpec, hint="orch new comparison") from None
    folder = path.absolute().parent
    out = _inside(folder, spec.out or f"{path.stem}-result")
    root = None if spec.image_root is None else _inside(folder, spec.image_root)
    images = tuple(str(_inside(folder, image)) for image in spec.images)
    asked = [_asked(source, number, spec, catalog, out, images, root) for number in range(len(spec.models))]
    _refuse_double(source, [one.name for one in asked])
    annotations = None if spec.annotations is None else _inside(folder, spec.annotations)
    if annotations is not None and not annotations.is_file():
        raise SpecError(f"{path}:{source.line(('annotations',))}: annotations: there is no file {annotations}")
    return ComparisonFile(path, out, tuple(asked), annotations, root, spec.compare, spec.report or None)


def _inside(folder: Path, path: str) -> Path:
    return folder / Path(path).expanduser()


def _asked(
    source: YamlSource,
    number: int,
    spec: ComparisonSpec,
    catalog: Catalog,
    out: Path,
    images: tuple[str, ...],
    image_root: Path | None,
) -> Asked:
    one: Any = spec.models[number]
    given = {**_given(spec.run), **_given(one)}
    settings = {**(_given(spec.run).get("settings") or {}), **(given.get("settings") or {})}
    with _at(source, ("models", number, "model")):
        entry = catalog.model(one.model)
    name = one.name or entry.name
    meant = {key: value for key, value in settings.items() if _is_meant(key, one, entry.spec.settings)}
    words = tuple(f"{key}={_text(value)}" for key, value in meant.items())
    with _at(source, ("models", number, "settings")):
        entry.settings(words)
    build = BuildOptions(**given.get("build", {}), offline=bool(given.get("offline")))
    taken = {key: value for key, value in given.items() if key not in ("model", "name", "settings", "build")}
    if "spool" in taken:
        taken["spool"] = source.path.absolute().parent / taken["spool"]
    if taken.get("executor") == "slurm":
        asked_for = taken["slurm"].model_dump(exclude_unset=True) if "slurm" in taken else {}
        taken["slurm"] = slurm_options(user_slurm_options(), asked_for)
    return Asked(
        name,
        entry,
        RunOptions(images=images, image_root=image_root, out=out / name, settings=words, build=build, **taken),
    )


def _given(spec: Any) -> dict[str, Any]:
    """What the file says, as the dataclasses want it; nothing for what it leaves out or leaves empty."""
    said = {name: getattr(spec, name) for name in spec.model_fields_set}
    return {
        name: _given(value) if isinstance(value, BuildSpec) else value
        for name, value in said.items()
        if value is not None
    }


def _is_meant(key: str, model: Any, known: Mapping[str, Any]) -> bool:
    """A common setting is for the models that have it; a model's own must be one."""
    return key in known or key in (model.settings or {})


def _text(value: SettingValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _at:  # noqa: N801
    """Errors inside get file, line and field of a place in the file."""

    def __init__(self, source: YamlSource, location: tuple[str | int, ...]) -> None:
        self._where = f"{source.path}:{source.line(location)}: {'.'.join(map(str, location))}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OrchError):
            message = error.message.partition(": ")[2] if error.message.startswith("--set ") else error.message
            raise SpecError(f"{self._where}: {message}", why=error.why, hint=error.hint) from None


def _refuse_double(source: YamlSource, names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            where = f"{source.path}:{source.line(('models', number))}: models.{number}"
            raise SpecError(f"{where}: two runs are named {name}", hint="give this one a name of its own: name: …")
