"""The format of stack.yaml as frozen models; this file is its reference."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from orchestrator.catalog.tasks import INSTANCES, TASKS, get_task
from orchestrator.errors import UsageError
from orchestrator.system import FieldError

NAME_PATTERN = r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
"""Names of stacks and variants: they become file names, image names and tags, so an engine's rules hold."""
MODEL_NAME_PATTERN = NAME_PATTERN[:-1] + r"\+*$"
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN, max_length=64)]
"""Names of models: they become folders, never image names, so `facere+` keeps its usual name."""


def _stays_inside(path: str) -> str:
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be a relative path that does not leave its folder")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_inside)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PredictorPath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_./-]+\.py:[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_stays_inside)
]
PythonVersion = Annotated[str, StringConstraints(pattern=r"^3\.[0-9]+$")]
Capability = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]  # a compute capability
DriverVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")]
SettingValue = bool | int | float | str


def _is_known_task(name: str) -> str:
    try:
        return get_task(name).name
    except UsageError as error:
        raise ValueError(f"{error.message}{f': {error.why}' if error.why else ''}") from error


def _list_tasks(schema: dict[str, Any]) -> None:
    schema["enum"] = list(TASKS)


TaskName = Annotated[str, AfterValidator(_is_known_task), Field(json_schema_extra=_list_tasks)]


class Spec(BaseModel):
    """Base of all specs: frozen; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UpstreamSource(Spec):
    """Upstream code, cloned at one commit when the image is built."""

    url: str
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    folders: tuple[RelativePath, ...] = ()


class BuildArgument(Spec):
    """A Dockerfile argument that `--build-arg` sets."""

    help: str
    default: str | None = None  # none: the user must give it, and the variant can only be built as an image


class Variant(Spec):
    """One build of a stack for one kind of hardware."""

    base_image: str
    lock: RelativePath
    partial_lock: bool = False
    """The lock leaves out dependencies that the stack never imports; `pip check` then accepts missing packages."""
    build_lock: RelativePath | None = None
    """What the lock's source distributions are built with: installed first, and nothing is built in isolation.

    Without one the lock is installed from wheels alone."""
    build_args: Mapping[str, BuildArgument] = {}
    python: PythonVersion
    also_python: tuple[PythonVersion, ...] = ()
    """Other Pythons that the lock installs on; the venv runtime may use them."""
    device: Literal["cpu", "cuda"] = "cpu"
    cuda: str | None = None
    min_driver: DriverVersion | None = None
    native_capabilities: tuple[Capability, ...] = ()
    ptx_capabilities: tuple[Capability, ...] = ()
    """Both lists of compute capabilities apply until a build has read the capabilities of the binaries."""
    jit_minutes: Annotated[int, Field(ge=1)] | None = None
    """Minutes for which the driver compiles PTX at the first start on a GPU without native code, where known."""
    on_request: bool = False  # selected only by name
    size_gb: Annotated[float, Field(gt=0)] | None = None
    """Disk space of the built image, its base included; an environment takes about as much."""

    @model_validator(mode="after")
    def _cuda_is_stated(self) -> Variant:
        if self.device == "cuda" and self.cuda is None:
            raise FieldError(("cuda",), "a variant with device cuda must state the toolkit's version")
        return self


class Weights(Spec):
    """One weights file and its only origin: bundled, path, url, package or manual steps."""

    file: RelativePath
    bundled: RelativePath | None = None  # path inside the stack's folder
    path: str | None = None
    """A file of yours on this machine, relative to the folder of this YAML file; copied again whenever it changes."""
    url: str | None = None
    package: str | None = None  # importable package, installed by the lock, that contains `file`
    manual: str | None = None  # steps by which a person gets the file
    sha256: Sha256 | None = None
    size: int | None = None  # bytes
    size_range: tuple[int, int] | None = None  # least and most bytes, where no digest is published
    unpack: bool = False  # the download is an archive; `file` names the folder it is unpacked into
    licence: str

    @model_validator(mode="after")
    def _one_origin(self) -> Weights:
        given = [name for name in ("bundled", "path", "url", "package", "manual") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of bundled, path, url, package, manual; given: {', '.join(given) or 'none'}")
        return self


class Category(Spec):
    """One category of a taxonomy."""

    id: int
    name: str


def _or_shared(schema: dict[str, Any]) -> None:
    """Have a JSON Schema take the name of a shared list of categories too, which the loader replaces."""
    schema["anyOf"] = [{key: schema.pop(key) for key in list(schema)}, {"type": "string"}]


class Taxonomy(Spec):
    """Category ids and names, and names of the attribute columns."""

    categories: tuple[Category, ...] = Field(min_length=1, json_schema_extra=_or_shared)
    """In stack.yaml also the name of a list that comes with orch: a file in images/taxonomies."""
    attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Taxonomy:
        ids = [category.id for category in self.categories]
        double = sorted({value for value in ids if ids.count(value) > 1})
        if double:
            raise ValueError(f"category ids occur twice: {double}")
        return self


class NativeOutput(Spec):
    """How the predictor's own output maps to the standard output."""

    box_order: Literal["xyxy", "yxyx"] = "xyxy"
    published_box_edges: Literal["exclusive", "inclusive"] = "exclusive"
    """Whether the model's own project writes a box's last pixels as right and lower edges (inclusive); for exports."""
    published_class_type: Literal["int32", "int64"] = "int64"
    """The type of class numbers that the model's own project writes; for exports."""
    published_box_order: Literal["xyxy", "yxyx"] | None = None
    """The box order in files of the model's own project, where its script changes the order; for exports."""
    class_base: int = 0
    class_map: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """Category id of each native class, from class_base up; None: the taxonomy's categories in order."""
    canvas: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels of the square canvas that the network sees, for manipulation localization."""


class Defaults(Spec):
    """What a run uses unless its options say otherwise."""

    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    max_detections: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 1
    attributes: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_image_size(cls, values: Any) -> Any:
        """Accept the field that earlier versions had and never read; the setting `image_size` has the effect."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name != "image_size"}


class NetworkLimits(Spec):
    """Limits of the network itself, whatever a run asks for: a number, or the name of the setting with the number."""

    score_threshold: Annotated[float, Field(ge=0, le=1)] | str | None = None
    """The network returns no instance with a lower score."""
    max_detections: Annotated[int, Field(ge=1)] | str | None = None
    """The network returns at most this many instances of an image."""


class Setting(Spec):
    """A setting of the predictor that `--set name=value` changes."""

    default: SettingValue
    help: str
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: Annotated[int, Field(ge=1)] | None = None  # whole numbers only: the value must be a multiple of this
    choices: tuple[str, ...] | None = None

    def parse(self, text: str) -> SettingValue:
        """Return the value of a text from the command line. Raises ValueError with what would be valid."""
        value = _as_type(text, type(self.default))
        if self.choices is not None and value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        if isinstance(value, int | float):
            if self.minimum is not None and value < self.minimum:
                raise ValueError(f"must be at least {self.minimum:g}")
            if self.maximum is not None and value > self.maximum:
                raise ValueError(f"must be at most {self.maximum:g}")
            if self.multiple_of is not None and value % self.multiple_of:
                raise ValueError(f"must be a multiple of {self.multiple_of}")
        return value


def _as_type(text: str, kind: type) -> SettingValue:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError("must be true or false")
        return words[text.lower()]
    if kind is int:
        if not re.fullmatch(r"[+-]?\d+", text):
            raise ValueError("must be a whole number")
        return int(text)
    if kind is float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError("must be a number")
        return value
    return text


class ModelDescription(Spec):
    """A model as stack.yaml describes it: weights and settings on top of a stack."""

    title: str
    task: TaskName = INSTANCES
    paper: str | None = None
    licence: str
    aliases: tuple[ModelName, ...] = ()
    weights: Mapping[Name, Weights]
    architecture: ModelName | None = None
    """The predictor's own name of the network, where it is not the model's name."""
    config: RelativePath | None = None  # upstream's configuration file, inside its sources
    gpu_memory: Annotated[int, Field(ge=1)] | None = None
    """MiB of GPU memory that one worker needs with the defaults, where measured."""
    taxonomy: str
    native: NativeOutput = NativeOutput()
    defaults: Defaults = Defaults()
    limits: NetworkLimits = NetworkLimits()
    settings: Mapping[str, Setting] = {}
    recipe: Mapping[str, SettingValue] = {}
    """Settings of the model's published recipe that differ from the defaults."""
    notes: str | None = None


class Stack(Spec):
    """One stack.yaml."""

    stack: Name
    title: str
    dockerfile: RelativePath
    predictor: PredictorPath  # file inside the stack's folder, and the class in it
    sources: Mapping[Name, UpstreamSource] = {}
    variants: Mapping[Name, Variant] = Field(min_length=1)
    taxonomies: Mapping[str, Taxonomy] = Field(min_length=1)
    models: Mapping[ModelName, ModelDescription] = Field(min_length=1)

    @model_validator(mode="after")
    def _references_hold(self) -> Stack:
        for name, model in self.models.items():
            if model.taxonomy not in self.taxonomies:
                known = ", ".join(self.taxonomies)
                location = ("models", name, "taxonomy")
                raise FieldError(location, f"{model.taxonomy!r} is not one of taxonomies: {known}")
            for field, limit in model.limits:
                if isinstance(limit, str) and limit not in model.settings:
                    raise FieldError(("models", name, "limits", field), f"unknown setting {limit!r}")
            for setting, value in model.recipe.items():
                try:
                    model.settings[setting].parse(str(value))
                except (KeyError, ValueError) as error:
                    why = "unknown setting" if isinstance(error, KeyError) else str(error)
                    raise FieldError(("models", name, "recipe", setting), why) from None
            ids = {category.id for category in self.taxonomies[model.taxonomy].categories}
            stray = sorted(set(model.native.class_map or ()) - ids)
            if stray:
                raise FieldError(("models", name, "native", "class_map"), f"no category has the id {stray[0]}")
        return self
