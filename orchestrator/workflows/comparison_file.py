"""Read orch.yaml: a whole comparison in one file. Its options of runs are those of `RunOptions`, by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError

from orchestrator.catalog import MODEL_NAME_PATTERN, Catalog, ModelEntry, SettingValue, Spec
from orchestrator.dispatch import SlurmSettings
from orchestrator.errors import OrchError, SpecError, UsageError
from orchestrator.evaluation import get_coco_protocol
from orchestrator.inputs import is_url
from orchestrator.plan import CommonOptions, RunOptions
from orchestrator.runtimes import BuildOptions
from orchestrator.system import YamlSource, spec_error, write_text
from orchestrator.workflows.batch import RunRequest

Location = tuple[str | int, ...]
T = TypeVar("T")
EXAMPLE = Path(__file__).parent.parent / "templates" / "orch.yaml"


def _as_mapping(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _refuse_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("give at least one")
    return value


def _check_protocol(name: str) -> str:
    """Return the name of a protocol for COCO annotations. Raises ValueError."""
    try:
        return get_coco_protocol(name).name
    except UsageError as error:
        raise ValueError(f"{error.message}{f': {error.why}' if error.why else ''}") from error


NotEmpty = Annotated[str, StringConstraints(min_length=1)]


class BuildSpec(Spec):
    """How images are built; see orch build."""

    base_image: str | None = None
    build_args: Mapping[str, str] | None = None


class RunSpec(CommonOptions):
    """Options of runs: of all models, or of one."""

    settings: Mapping[str, SettingValue] | None = None
    build: BuildSpec | None = None
    slurm: SlurmSettings | None = None


class ModelSpec(RunSpec):
    """A model, and the options that only its run has."""

    model: str
    name: Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN, max_length=64)] | None = None


_NamedModel = Annotated[ModelSpec, BeforeValidator(_as_mapping, json_schema_input_type=str | ModelSpec)]


class CompareSpec(Spec):
    """How runs are compared; see orch compare."""

    iou: Literal["segm", "bbox"] | None = None
    """None: masks if all runs have them, else boxes."""
    categories: tuple[str | int, ...] = ()
    align: bool = False
    strict: bool = False
    resamples: Annotated[int, Field(ge=0, le=100_000)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.5
    attribute_score: Annotated[float, Field(ge=0, le=1)] | None = None
    protocol: Annotated[str, AfterValidator(_check_protocol)] = "coco"


class ReportSpec(Spec):
    """What the HTML page shows; see orch report."""

    title: str | None = None
    max_images: Annotated[int, Field(ge=1)] = 240
    max_megabytes: Annotated[float, Field(ge=0.1)] = 16.0
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.3


class ComparisonSpec(Spec):
    """One orch.yaml. Paths are relative to its folder."""

    models: Annotated[tuple[_NamedModel, ...], AfterValidator(_refuse_empty)]
    images: Annotated[
        tuple[NotEmpty, ...],
        BeforeValidator(_as_list, json_schema_input_type=str | tuple[str, ...]),
        AfterValidator(_refuse_empty),
    ]
    image_root: NotEmpty | None = None
    annotations: NotEmpty | None = None
    out: NotEmpty | None = None  # folder of all results; by default the file's name without its suffix, with -result
    run: RunSpec = RunSpec()
    compare: CompareSpec = CompareSpec()
    report: ReportSpec | Literal[False] = ReportSpec()


@dataclass(frozen=True)
class ComparisonFile:
    """An orch.yaml, resolved: the runs it asks for, and how their predictions are compared."""

    path: Path
    out: Path
    runs: tuple[RunRequest, ...]
    annotations: Path | None
    image_root: Path | None
    compare: CompareSpec
    report: ReportSpec | None


def read_comparison(path: Path, catalog: Catalog, *, update: bool = False) -> ComparisonFile:
    """Read and check a file before anything is run. `update`: the runs may change what their folders hold.

    Raises SpecError, which names file, line and field.
    """
    if not path.exists():
        raise SpecError(f"no such file: {path}", hint=f"orch new comparison {path} writes one to be changed")
    source = YamlSource(path)
    spec = _validate(source)
    folder = path.absolute().parent
    out = _resolve(folder, spec.out or f"{path.stem}-result")
    image_root = None if spec.image_root is None else _resolve(folder, spec.image_root)
    images = tuple(image if is_url(image) else str(_resolve(folder, image)) for image in spec.images)
    runs: list[RunRequest] = []
    for number, model in enumerate(spec.models):
        with _locate_errors(source, ("models", number, "model")):
            entry = catalog.model(model.model)
        name = model.name or entry.name
        if any(name == run.name for run in runs):
            where = _where(source, ("models", number))
            raise SpecError(f"{where}: two runs are named {name}", hint="give this one a name of its own: name: …")
        with _locate_errors(source, ("models", number, "settings")):
            given = _merge_options(entry, spec.run, model, folder)
        options = RunOptions(images=images, image_root=image_root, out=out / name, update=update, **given)
        runs.append(RunRequest(name, entry, options))
    annotations = None if spec.annotations is None else _resolve(folder, spec.annotations)
    if annotations is not None and not annotations.is_file():
        raise SpecError(f"{_where(source, ('annotations',))}: annotations: there is no file {annotations}")
    return ComparisonFile(path, out, tuple(runs), annotations, image_root, spec.compare, spec.report or None)


def write_example(path: Path) -> None:
    """Write an example of an orch.yaml. Raises UsageError where a file exists already."""
    if os.path.lexists(path):
        raise UsageError(f"{path} exists already", hint="orch new comparison OTHER.yaml")
    try:
        write_text(path, EXAMPLE.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write {path}", why=error.strerror) from error


def _validate(source: YamlSource) -> ComparisonSpec:
    if not isinstance(source.value, dict):
        raise SpecError(f"{source.path}:1: an orch.yaml is a mapping", hint="orch new comparison")
    try:
        return ComparisonSpec.model_validate(source.value)
    except ValidationError as error:
        raise spec_error(error, source, ComparisonSpec, hint="orch new comparison") from None


def _resolve(folder: Path, path: str) -> Path:
    return folder / Path(path).expanduser()


def _merge_options(entry: ModelEntry, common: RunSpec, model: ModelSpec, folder: Path) -> dict[str, Any]:
    """Return the options of one run: a model's own win over the common ones. Raises UsageError."""
    merged = {**common.model_dump(exclude_unset=True), **model.model_dump(exclude_unset=True)}
    del merged["model"]
    merged.pop("name", None)
    own_settings = model.settings or {}
    # A common setting is for the models that have it; a model's own setting must exist.
    settings = {
        key: value
        for key, value in {**(common.settings or {}), **own_settings}.items()
        if key in entry.spec.settings or key in own_settings
    }
    merged["settings"] = _as_texts(settings)
    entry.settings(merged["settings"])
    merged["build"] = BuildOptions(**merged.get("build", {}), offline=merged.get("offline", False))
    by_executor = {"slurm": merged.pop("slurm", {})}
    merged["executor_settings"] = _as_texts(by_executor.get(merged.get("executor", ""), {}))
    if "spool" in merged:
        merged["spool"] = folder / merged["spool"]
    return merged


def _as_texts(values: Mapping[str, object]) -> tuple[str, ...]:
    """Return KEY=VALUE texts as on the command line: a list gives one text for each of its items."""
    texts = []
    for key, value in values.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            texts.append(f"{key}={str(item).lower() if isinstance(item, bool) else item}")
    return tuple(texts)


def _where(source: YamlSource, location: Location) -> str:
    return f"{source.path}:{source.line(location)}: {'.'.join(map(str, location))}"


@contextmanager
def _locate_errors(source: YamlSource, location: Location) -> Iterator[None]:
    """Give errors raised inside the file, line and field they are about. Raises SpecError."""
    try:
        yield
    except OrchError as error:
        message = error.message.partition(": ")[2] if error.message.startswith("--set ") else error.message
        where = _where(source, location)
        raise SpecError(f"{where}: {message}", why=error.why, hint=error.hint) from None
