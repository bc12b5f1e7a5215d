"""The catalog: all stack.yaml and model.yaml files, built-in and the user's, and the lookup of models by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.catalog.bundled import DOCKERFILES, STACKS, TAXONOMIES
from orchestrator.catalog.model_file import MODEL_FILE, absolute_path, add_model, field_error, read_model_file
from orchestrator.catalog.spec import Category, ModelDescription, SettingValue, Stack, Taxonomy
from orchestrator.errors import SpecError, UsageError
from orchestrator.paths import user_stacks_folder
from orchestrator.system import YamlSource, did_you_mean, spec_error, unknown_name

SPEC_NAME = "stack.yaml"
_NEW = "orch new model NAME --like MODEL --weights FILE, or orch new stack NAME, makes one"
PUBLISHED_RECIPE = "recipe=published"
"""The value of --set that stands for the settings of a model's published recipe."""


@dataclass(frozen=True)
class StackEntry:
    """A stack and the folder of its files."""

    spec: Stack
    folder: Path
    model_files: Mapping[str, Path] = field(default_factory=dict)
    """The model.yaml of each model that is not described in stack.yaml."""

    @property
    def name(self) -> str:
        return self.spec.stack

    @property
    def dockerfile(self) -> Path:
        """The stack's Dockerfile, beside stack.yaml or among the built-in ones. Raises SpecError."""
        for folder in (self.folder, DOCKERFILES):
            if (folder / self.spec.dockerfile).is_file():
                return folder / self.spec.dockerfile
        raise SpecError(
            f"{self.folder / SPEC_NAME}: dockerfile: {self.spec.dockerfile} is neither in {self.folder} "
            f"nor among the built-in Dockerfiles"
        )


@dataclass(frozen=True)
class ModelEntry:
    """A model together with its stack."""

    name: str
    spec: ModelDescription
    stack: StackEntry

    @property
    def architecture(self) -> str:
        """The predictor's own name of the network."""
        return self.spec.architecture or self.name

    @property
    def file(self) -> Path:
        """The stack.yaml or model.yaml that describes the model."""
        return self.stack.model_files.get(self.name, self.stack.folder / SPEC_NAME)

    @property
    def taxonomy(self) -> Taxonomy:
        return self.stack.spec.taxonomies[self.spec.taxonomy]

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.taxonomy.categories

    @property
    def class_map(self) -> tuple[int, ...]:
        """The category id of each native class, from native.class_base up."""
        return self.spec.native.class_map or tuple(category.id for category in self.categories)

    def departures(self, settings: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
        """Return the settings of the published recipe from which `settings` depart, with the recipe's values."""
        return {name: value for name, value in self.spec.recipe.items() if settings[name] != value}

    def settings(self, overrides: Sequence[str]) -> dict[str, SettingValue]:
        """Return all settings with `name=value` overrides applied; recipe=published is short for several of them.

        Raises UsageError.
        """
        values = {name: setting.default for name, setting in self.spec.settings.items()}
        for override in overrides:
            name, equals, text = override.partition("=")
            if not equals:
                raise UsageError(f"--set {override}: write it as name=value")
            if override == PUBLISHED_RECIPE and self.spec.recipe:
                values.update(self.spec.recipe)
                continue
            if name not in self.spec.settings:
                raise UsageError(
                    f"--set {override}: {self.name} has no setting {name!r}",
                    why=did_you_mean(name, self.spec.settings),
                    hint=f"orch models show {self.name}",
                )
            try:
                values[name] = self.spec.settings[name].parse(text)
            except ValueError as error:
                raise UsageError(f"--set {override}: {name} {error}") from None
        return values


@dataclass(frozen=True)
class Catalog:
    """All stacks by name, all models by name and by alias."""

    stacks: Mapping[str, StackEntry]
    models: Mapping[str, ModelEntry]
    aliases: Mapping[str, str]

    def model(self, name: str) -> ModelEntry:
        """Return the model of that name or alias. Raises UsageError with the nearest names."""
        entry = self.models.get(self.aliases.get(name, name))
        if entry is None:
            raise unknown_name("model", name, [*self.models, *self.aliases], hint="orch models")
        return entry

    def stack(self, name: str) -> StackEntry:
        """Return the stack of that name, or of the model of that name. Raises UsageError."""
        if name in self.stacks:
            return self.stacks[name]
        if self.aliases.get(name, name) in self.models:
            return self.model(name).stack
        raise unknown_name("stack or model", name, [*self.stacks, *self.models, *self.aliases], hint="orch models")


def load_catalog(extra: Sequence[Path] = ()) -> Catalog:
    """Read the built-in stacks, then those of `extra`, $ORCH_STACKS and the user's folder, then the model.yaml files.

    Raises SpecError.
    """
    files = _find_files(extra)
    entries: dict[str, StackEntry] = {}
    for path in files:
        if path.name == SPEC_NAME:
            entry = read_stack(path.parent)
            if entry.name in entries:
                raise _double("stack", entry.name, entries[entry.name].folder / SPEC_NAME, path)
            entries[entry.name] = entry
    described = _collect(entries)
    for path in files:
        if path.name == MODEL_FILE:
            entry = _read_model(path, described)
            entries[entry.name] = entry
            described = _collect(entries)
    return described


def _collect(entries: Mapping[str, StackEntry]) -> Catalog:
    """Return the catalog of these stacks. Raises SpecError for two models of one name."""
    models: dict[str, ModelEntry] = {}
    aliases: dict[str, str] = {}
    for entry in entries.values():
        for name, spec in entry.spec.models.items():
            model = ModelEntry(name, spec, entry)
            for word in (name, *spec.aliases):
                if word in models or word in aliases:
                    raise _double("model", word, models[aliases.get(word, word)].file, model.file)
                if word != name:
                    aliases[word] = name
                else:
                    models[name] = model
    return Catalog(entries, models, aliases)


def _double(kind: str, name: str, first: Path, second: Path) -> SpecError:
    return SpecError(
        f"two {kind}s are named {name!r}: in {first} and in {second}",
        hint=f"change the name in {second}, or take its folder out of --stacks, $ORCH_STACKS or {user_stacks_folder()}",
    )


def read_model(path: Path, stack: StackEntry) -> StackEntry:
    """Return `stack` with the model of a model.yaml, which must be like one of its own models. Raises SpecError."""
    return _read_model(path, _collect({stack.name: stack}))


def _read_model(path: Path, known: Catalog) -> StackEntry:
    """Return the stack of a model.yaml's base model, with the model added. Raises SpecError."""
    source, own = read_model_file(path)
    base = known.models.get(known.aliases.get(own.like, own.like))
    if base is None:
        names = [*known.models, *known.aliases]
        raise field_error(source, ("like",), f"unknown model {own.like!r}", did_you_mean(own.like, names))
    if base.name in base.stack.model_files:
        raise field_error(source, ("like",), f"{base.name} is itself like another model: name that one")
    if own.model in known.models or own.model in known.aliases:
        raise _double("model", own.model, known.models[known.aliases.get(own.model, own.model)].file, path)
    lists = {name: _shared_categories(name) for name in (_shared_names() if own.taxonomy else ())}
    spec = add_model(base.stack.spec, base.name, source, own, lists)
    return replace(base.stack, spec=spec, model_files={**base.stack.model_files, own.model: path})


def _find_files(extra: Sequence[Path]) -> list[Path]:
    """Return all stack.yaml and model.yaml files. Raises UsageError for a folder without any."""
    from_environment = [Path(part) for part in os.environ.get("ORCH_STACKS", "").split(os.pathsep) if part]
    named = [*extra, *from_environment]
    for parent in named:
        if not parent.is_dir():
            raise UsageError(f"the folder of stacks {parent} does not exist", hint=_NEW)
    files: list[Path] = []
    for parent in [STACKS, *named, user_stacks_folder()]:
        own = [path for path in (parent / SPEC_NAME, parent / MODEL_FILE) if path.is_file()]
        below = own or [path for name in (SPEC_NAME, MODEL_FILE) for path in sorted(parent.glob(f"*/{name}"))]
        if not below and parent in named:
            why = f"neither it nor a folder in it has a {SPEC_NAME} or a {MODEL_FILE}"
            raise UsageError(f"{parent} contains no stack", why=why, hint=_NEW)
        files += [path.parent.resolve() / path.name for path in below]
    return list(dict.fromkeys(files))


def read_stack(folder: Path) -> StackEntry:
    """Read one stack's spec. Raises SpecError naming file, line and field."""
    source = YamlSource(folder / SPEC_NAME)
    if not isinstance(source.value, dict):
        raise SpecError(f"{source.path}:1: a stack.yaml is a mapping, see docs/adding-a-stack.md")
    _fill_in_categories(source)
    _make_paths_absolute(source)
    try:
        spec = Stack.model_validate(source.value)
    except ValidationError as error:
        raise spec_error(error, source, Stack) from None
    return StackEntry(spec, folder)


def _fill_in_categories(source: YamlSource) -> None:
    """Replace `categories: NAME` by the list of that name that comes with orch. Raises SpecError."""
    taxonomies = source.value.get("taxonomies")
    for name, taxonomy in taxonomies.items() if isinstance(taxonomies, dict) else ():
        shared = taxonomy.get("categories") if isinstance(taxonomy, dict) else None
        if not isinstance(shared, str):
            continue
        known = _shared_names()
        if shared not in known:
            location = ("taxonomies", name, "categories")
            message = f"unknown list of categories {shared!r}"
            raise field_error(source, location, message, did_you_mean(shared, known))
        taxonomy["categories"] = _shared_categories(shared)


def _shared_names() -> list[str]:
    return sorted(path.stem for path in TAXONOMIES.glob("*.yaml"))


def _shared_categories(name: str) -> Any:
    return YamlSource(TAXONOMIES / f"{name}.yaml").value


def _make_paths_absolute(source: YamlSource) -> None:
    """Replace weights' `path`, which is relative to the file's folder."""
    models = source.value.get("models")
    for model in models.values() if isinstance(models, dict) else ():
        weights = model.get("weights") if isinstance(model, dict) else None
        for one in weights.values() if isinstance(weights, dict) else ():
            if isinstance(one, dict) and isinstance(one.get("path"), str):
                one["path"] = absolute_path(source.path.parent, one["path"])
