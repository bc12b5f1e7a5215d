"""The format of model.yaml: a model of your own on a stack that exists, by what differs from another model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from orchestrator.catalog.spec import (
    Category,
    Defaults,
    ModelDescription,
    ModelName,
    Name,
    NativeOutput,
    Setting,
    SettingValue,
    Spec,
    Stack,
    Taxonomy,
    Weights,
)
from orchestrator.errors import SpecError
from orchestrator.system import YamlSource, did_you_mean, spec_error

MODEL_FILE = "model.yaml"
OWN_CONFIG = "config"
"""The key under which the guest finds `config` of a model.yaml among the weights."""
_ONLY = "weights"
"""The key of `weights: FILE`, which stands for the base model's only key."""


def _as_mapping(value: Any) -> Any:
    return {_ONLY: value} if isinstance(value, str) else value


def _number_names(value: Any) -> Any:
    """Turn names into categories with the ids 1, 2, …"""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [{"id": number, "name": name} for number, name in enumerate(value, 1)]
    return value


_Files = Annotated[Mapping[Name, str], BeforeValidator(_as_mapping, json_schema_input_type=str | Mapping[str, str])]
_Categories = Annotated[
    tuple[Category, ...] | None,
    BeforeValidator(_number_names, json_schema_input_type=tuple[str, ...] | tuple[Category, ...] | None),
    Field(min_length=1),
]


class ModelFile(Spec):
    """One model.yaml. What it does not say is as the base model has it."""

    model: ModelName
    like: ModelName
    """The base model, or an alias of it: stack, architecture, environment and image are its own."""
    title: str | None = None
    licence: str = "not stated"
    weights: _Files = Field(default_factory=dict)
    """A file, folder or URL, or one per key of the base model's weights. Paths are relative to this file."""
    config: str | None = None
    """Your configuration file in place of the base model's; as it lay beside that one."""
    taxonomy: str | None = None  # one of the stack's, or a list that comes with orch
    categories: _Categories = None
    """In the order of the model's classes: names, which get the ids 1, 2, …, or {id, name}."""
    attributes: tuple[str, ...] | None = None
    native: NativeOutput = NativeOutput()  # only the fields that differ
    defaults: Defaults = Defaults()  # only the fields that differ
    settings: Mapping[str, SettingValue] = {}
    """Other defaults for settings of the base model."""
    gpu_memory: Annotated[int, Field(ge=1)] | None = None
    notes: str | None = None


class _FieldProblem(Exception):
    """A value that does not fit the base model."""

    def __init__(self, message: str, *location: str, why: str | None = None) -> None:
        super().__init__(message)
        self.location, self.why = location, why


def read_model_file(path: Path) -> tuple[YamlSource, ModelFile]:
    """Read a model.yaml. Raises SpecError naming file, line and field."""
    source = YamlSource(path)
    if not isinstance(source.value, dict):
        raise SpecError(f"{path}:1: a model.yaml is a mapping, see docs/adding-a-stack.md")
    try:
        return source, ModelFile.model_validate(source.value)
    except ValidationError as error:
        raise spec_error(error, source, ModelFile) from None


def field_error(source: YamlSource, location: Sequence[str], message: str, why: str | None = None) -> SpecError:
    """Return the error of one field of a YAML file, with its line."""
    return SpecError(f"{source.path}:{source.line(location)}: {'.'.join(location)}: {message}", why=why)


def add_model(stack: Stack, base: str, source: YamlSource, own: ModelFile, lists: Mapping[str, Any]) -> Stack:
    """Return the stack with one more model, which is like its model `base`.

    `lists` are the lists of categories that come with orch, by name. Raises SpecError.
    """
    try:
        name, taxonomy = _choose_taxonomy(stack, base, own, lists)
        description = _describe(stack.models[base], base, source.path.parent, own, name, taxonomy)
    except _FieldProblem as problem:
        raise field_error(source, problem.location, str(problem), problem.why) from None
    models = {**stack.models, own.model: description}
    return stack.model_copy(update={"models": models, "taxonomies": {**stack.taxonomies, name: taxonomy}})


def _choose_taxonomy(stack: Stack, base: str, own: ModelFile, lists: Mapping[str, Any]) -> tuple[str, Taxonomy]:
    """Return the name and content of the model's taxonomy; categories of its own have the model's name."""
    taxonomies = stack.taxonomies
    name = own.taxonomy or stack.models[base].taxonomy
    if own.taxonomy and own.categories:
        raise _FieldProblem("give categories or a taxonomy, not both", "taxonomy")
    if name not in taxonomies and name not in lists:
        known = [*taxonomies, *lists]
        raise _FieldProblem(f"{name!r} is not one of {', '.join(known)}", "taxonomy", why=did_you_mean(name, known))
    base_attributes = stack.taxonomies[stack.models[base].taxonomy].attributes
    if name in taxonomies:
        taxonomy = taxonomies[name]
    else:
        taxonomy = Taxonomy(categories=lists[name], attributes=base_attributes)
    if own.categories is None and own.attributes is None:
        return name, taxonomy
    if own.model in taxonomies:
        raise _FieldProblem(f"a taxonomy of the stack {stack.stack} has this name; choose another one", "model")
    attributes = taxonomy.attributes if own.attributes is None else own.attributes
    ids = [category.id for category in own.categories or ()]
    double = sorted({value for value in ids if ids.count(value) > 1})
    if double:
        raise _FieldProblem(f"category ids occur twice: {double}", "categories")
    return own.model, Taxonomy(categories=own.categories or taxonomy.categories, attributes=attributes)


def _describe(
    base: ModelDescription, base_name: str, folder: Path, own: ModelFile, taxonomy_name: str, taxonomy: Taxonomy
) -> ModelDescription:
    native = {name: getattr(own.native, name) for name in own.native.model_fields_set}
    if own.categories or own.taxonomy:
        native = {"class_map": None, **native}
    stray = sorted(set(native.get("class_map") or ()) - {category.id for category in taxonomy.categories})
    if stray:
        raise _FieldProblem(f"no category has the id {stray[0]}", "native", "class_map")
    defaults = {name: getattr(own.defaults, name) for name in own.defaults.model_fields_set}
    if not taxonomy.attributes:
        defaults["attributes"] = False
    changes = {
        "title": own.title or f"like {base_name}: {base.title}",
        "licence": own.licence,
        "aliases": (),
        "weights": {**_weights(base, base_name, folder, own), **_config(base, base_name, folder, own)},
        "gpu_memory": own.gpu_memory or base.gpu_memory,
        "taxonomy": taxonomy_name,
        "native": base.native.model_copy(update=native),
        "defaults": base.defaults.model_copy(update=defaults),
        "settings": _settings(base, base_name, own),
        "notes": own.notes,
        "architecture": base.architecture or base_name,
    }
    return base.model_copy(update=changes)


def _weights(base: ModelDescription, base_name: str, folder: Path, own: ModelFile) -> dict[str, Weights]:
    """Return the weights with their origins; those that the file does not name are the base model's."""
    weights = dict(base.weights)
    for key, origin in own.weights.items():
        if key == _ONLY and key not in base.weights and len(base.weights) == 1:
            key = next(iter(base.weights))
        if key not in base.weights:
            keys = ", ".join(base.weights) or "none"
            raise _FieldProblem(f"{base_name} has no weights {key!r}; it has {keys}", "weights", key)
        like = base.weights[key]
        url = origin if "://" in origin else None
        path = absolute_path(folder, origin) if url is None else None
        file = like.file if like.package is None else Path(like.file).name
        weights[key] = Weights(file=file, unpack=like.unpack, licence=own.licence, url=url, path=path)
    return weights


def _config(base: ModelDescription, base_name: str, folder: Path, own: ModelFile) -> dict[str, Weights]:
    """Return the configuration file as one of the weights: workers get it, and runs notice when it changes."""
    if own.config is None:
        return {}
    if base.config is None:
        raise _FieldProblem(f"{base_name} reads no configuration file", "config")
    name = Path(own.config).name
    if name in {weights.file for weights in base.weights.values()}:
        raise _FieldProblem("it has the name of the weights' file; rename it", "config")
    return {OWN_CONFIG: Weights(file=name, path=absolute_path(folder, own.config), licence=own.licence)}


def absolute_path(folder: Path, path: str) -> str:
    """Return a path that a YAML file in `folder` names; ~ is the user's home."""
    return os.path.abspath(folder / Path(path).expanduser())


def _settings(base: ModelDescription, base_name: str, own: ModelFile) -> dict[str, Setting]:
    settings = dict(base.settings)
    for name, value in own.settings.items():
        if name not in settings:
            why = did_you_mean(name, settings)
            raise _FieldProblem(f"{base_name} has no setting {name!r}", "settings", name, why=why)
        try:
            parsed = settings[name].parse(str(value))
        except ValueError as error:
            raise _FieldProblem(str(error), "settings", name) from None
        settings[name] = settings[name].model_copy(update={"default": parsed})
    return settings
