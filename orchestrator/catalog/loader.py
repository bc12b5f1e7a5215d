"""The catalog: all stack.yaml files, built-in and the user's, and the lookup of models by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.catalog.bundled import DOCKERFILES, STACKS, TAXONOMIES
from orchestrator.catalog.spec import Category, ModelDescription, SettingValue, Stack, Taxonomy
from orchestrator.errors import SpecError, UsageError
from orchestrator.paths import user_stacks_folder
from orchestrator.system import YamlSource, did_you_mean, spec_error, unknown_name

SPEC_NAME = "stack.yaml"
PUBLISHED_RECIPE = "recipe=published"
"""The value of --set that stands for the settings of a model's published recipe."""


@dataclass(frozen=True)
class StackEntry:
    """A stack and the folder of its files."""

    spec: Stack
    folder: Path

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
    """Read the built-in stacks, then those of `extra`, $ORCH_STACKS and the user's folder. Raises SpecError."""
    entries: dict[str, StackEntry] = {}
    for folder in _stack_folders(extra):
        entry = read_stack(folder)
        if entry.name in entries:
            raise SpecError(f"two stacks are named {entry.name!r}: {entries[entry.name].folder} and {entry.folder}")
        entries[entry.name] = entry
    models: dict[str, ModelEntry] = {}
    aliases: dict[str, str] = {}
    for entry in entries.values():
        for name, spec in entry.spec.models.items():
            for word in (name, *spec.aliases):
                if word in models or word in aliases:
                    other = models[aliases.get(word, word)].stack.folder
                    raise SpecError(f"two models are named {word!r}: in {other} and in {entry.folder}")
                if word != name:
                    aliases[word] = name
                else:
                    models[name] = ModelEntry(name, spec, entry)
    return Catalog(entries, models, aliases)


def _stack_folders(extra: Sequence[Path]) -> list[Path]:
    from_environment = [Path(part) for part in os.environ.get("ORCH_STACKS", "").split(os.pathsep) if part]
    named = [*extra, *from_environment]
    for parent in named:
        if not parent.is_dir():
            raise UsageError(f"the folder of stacks {parent} does not exist")
    folders: list[Path] = []
    for parent in [STACKS, *named, user_stacks_folder()]:
        pattern = SPEC_NAME if (parent / SPEC_NAME).is_file() else f"*/{SPEC_NAME}"
        below = sorted(path.parent.resolve() for path in parent.glob(pattern))
        if not below and parent in named:
            why = f"it has no {SPEC_NAME} and no folder with a {SPEC_NAME}"
            raise UsageError(f"{parent} contains no stack", why=why)
        folders += below
    return list(dict.fromkeys(folders))


def read_stack(folder: Path) -> StackEntry:
    """Read one stack's spec. Raises SpecError naming file, line and field."""
    source = YamlSource(folder / SPEC_NAME)
    if not isinstance(source.value, dict):
        raise SpecError(f"{source.path}:1: a stack.yaml is a mapping, see docs/adding-a-stack.md")
    _fill_in_categories(source)
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
        known = sorted(path.stem for path in TAXONOMIES.glob("*.yaml"))
        if shared not in known:
            location = ("taxonomies", name, "categories")
            raise SpecError(
                f"{source.path}:{source.line(location)}: {'.'.join(location)}: unknown list of categories {shared!r}",
                why=did_you_mean(shared, known),
            )
        taxonomy["categories"] = YamlSource(TAXONOMIES / f"{shared}.yaml").value
