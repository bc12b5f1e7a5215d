"""What a stack.yaml says, as frozen models: this file is the reference of the format."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from orchestrator.system.yaml_source import FieldError

NAME_PATTERN = r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
"""Names of stacks and variants: they become file names, image names and tags, so an engine's rules hold."""
MODEL_NAME_PATTERN = NAME_PATTERN[:-1] + r"\+*$"
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME_PATTERN, max_length=64)]
"""Names of models: they become folders, never image names, so `facere+` may be called what everybody calls it."""


def _stays_inside(path: str) -> str:
    if not path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be a relative path that does not leave its folder")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_inside)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PredictorPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_./-]+\.py:[A-Za-z_][A-Za-z0-9_]*$"),
    AfterValidator(_stays_inside),
]
PythonVersion = Annotated[str, StringConstraints(pattern=r"^3\.[0-9]+$")]
Capability = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]
"""A compute capability."""
DriverVersion = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")]
SettingValue = bool | int | float | str

Task = Literal["instance-segmentation", "manipulation-localization"]
MANIPULATION: Task = "manipulation-localization"


class Spec(BaseModel):
    """Base of all specs: frozen, and a field nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UpstreamSource(Spec):
    """Upstream code, cloned at one commit when the image is built."""

    url: str
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    folders: tuple[RelativePath, ...] = ()


class BuildArgument(Spec):
    """An argument of the Dockerfile that `--build-arg` sets."""

    help: str
    default: str | None = None
    """None: it has to be given, and the variant can only be built as an image."""


class Variant(Spec):
    """One build of a stack for one kind of hardware."""

    base_image: str
    lock: RelativePath
    build_lock: RelativePath | None = None
    """What the lock's source distributions are built with: installed first, and nothing is built in isolation."""
    build_args: Mapping[str, BuildArgument] = {}
    python: PythonVersion
    also_python: tuple[PythonVersion, ...] = ()
    """Other Pythons the lock installs on: the venv runtime may use them."""
    device: Literal["cpu", "cuda"] = "cpu"
    cuda: str | None = None
    min_driver: DriverVersion | None = None
    native_capabilities: tuple[Capability, ...] = ()
    ptx_capabilities: tuple[Capability, ...] = ()
    """Both lists of compute capabilities stand until a build has read what the binaries really hold."""
    jit_minutes: Annotated[int, Field(ge=1)] | None = None
    """So long the driver compiles PTX at the first start on a GPU without native code, where that is known."""
    on_request: bool = False
    """Taken only when asked for by name."""
    size_gb: Annotated[float, Field(gt=0)] | None = None
    """What the built image takes on disk, its base included; an environment takes about as much."""

    @model_validator(mode="after")
    def _cuda_is_stated(self) -> Variant:
        if self.device == "cuda" and self.cuda is None:
            raise FieldError(("cuda",), "a variant with device cuda must state the toolkit's version")
        return self


class Weights(Spec):
    """One weights file and the one place it comes from: bundled, url, package or manual steps."""

    file: RelativePath
    bundled: RelativePath | None = None
    """Path inside the stack's folder."""
    url: str | None = None
    package: str | None = None
    """Importable package, installed by the lock, that has `file` inside."""
    manual: str | None = None
    """What a person has to do to get the file."""
    sha256: Sha256 | None = None
    size: int | None = None
    """Bytes."""
    size_range: tuple[int, int] | None = None
    """Least and most bytes, where no digest is published."""
    unpack: bool = False
    """The download is an archive; `file` names the folder it is unpacked into."""
    licence: str

    @model_validator(mode="after")
    def _one_origin(self) -> Weights:
        given = [name for name in ("bundled", "url", "package", "manual") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of bundled, url, package, manual; given: {', '.join(given) or 'none'}")
        return self


class Category(Spec):
    """One category of a taxonomy."""

    id: int
    name: str


class Taxonomy(Spec):
    """Category ids and names, and the names of the attribute columns."""

    categories: tuple[Category, ...] = Field(min_length=1)
    """In a stack.yaml also the name of a list that comes with orch: a file of images/taxonomies."""
    attributes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Taxonomy:
        ids = [category.id for category in self.categories]
        double = sorted({value for value in ids if ids.count(value) > 1})
        if double:
            raise ValueError(f"category ids occur twice: {double}")
        return self


class NativeOutput(Spec):
    """How the predictor's own output maps to the standard one."""

    box_order: Literal["xyxy", "yxyx"] = "xyxy"
    published_box_edges: Literal["exclusive", "inclusive"] = "exclusive"
    """Whether right and lower edges are a box's last pixels where the model's own project writes them; for exports."""
    published_class_type: Literal["int32", "int64"] = "int64"
    """The type of the class numbers that the model's own project writes; for exports."""
    published_box_order: Literal["xyxy", "yxyx"] | None = None
    """The order in which the model's own project writes boxes to files, where its script turns them; for exports."""
    class_base: int = 0
    class_map: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """Category id of each native class, from class_base up; None: the taxonomy's categories in order."""


class Defaults(Spec):
    """What a run uses unless told otherwise."""

    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    max_detections: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 1
    attributes: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_image_size(cls, values: Any) -> Any:
        """Accept the field that earlier versions had and never read; the setting `image_size` has the effect."""
        return (
            {name: value for name, value in values.items() if name != "image_size"}
            if isinstance(values, dict)
            else values
        )


class NetworkLimits(Spec):
    """What the network itself keeps to, whatever a run asks for: a number, or the name of the setting that has it."""

    score_threshold: Annotated[float, Field(ge=0, le=1)] | str | None = None
    """It gives no instance that scores less."""
    max_detections: Annotated[int, Field(ge=1)] | str | None = None
    """It gives no more instances of an image."""


class Setting(Spec):
    """A knob of the predictor that `--set name=value` may turn."""

    default: SettingValue
    help: str
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: Annotated[int, Field(ge=1)] | None = None
    """Whole numbers only: the value must be a multiple of this."""
    choices: tuple[str, ...] | None = None

    def parse(self, text: str) -> SettingValue:
        """The value a command line's text means. Raises ValueError with what would be right."""
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
    """What a user asks for by name: weights and settings on top of a stack."""

    title: str
    task: Task = "instance-segmentation"
    paper: str | None = None
    licence: str
    aliases: tuple[ModelName, ...] = ()
    weights: Mapping[Name, Weights]
    config: RelativePath | None = None
    """Upstream's configuration file, inside its sources."""
    gpu_memory: Annotated[int, Field(ge=1)] | None = None
    """MiB of GPU memory that one worker needs with the defaults, where somebody measured it."""
    taxonomy: str
    native: NativeOutput = NativeOutput()
    defaults: Defaults = Defaults()
    limits: NetworkLimits = NetworkLimits()
    settings: Mapping[str, Setting] = {}
    notes: str | None = None


class Stack(Spec):
    """One stack.yaml."""

    stack: Name
    title: str
    dockerfile: RelativePath
    predictor: PredictorPath
    """File inside the stack's folder, and the class in it."""
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
                    raise FieldError(("models", name, "limits", field), f"there is no setting {limit!r}")
            ids = {category.id for category in self.taxonomies[model.taxonomy].categories}
            stray = sorted(set(model.native.class_map or ()) - ids)
            if stray:
                raise FieldError(("models", name, "native", "class_map"), f"no category has the id {stray[0]}")
        return self
