"""The catalog: every stack.yaml there is, built-in and the user's, and the lookup of models by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from orchestrator.catalog.bundled import DOCKERFILES, STACKS, TAXONOMIES
from orchestrator.catalog.spec import Category, Model, ReferenceFault, SettingValue, Spec, Stack, Taxonomy
from orchestrator.errors import SpecError, UsageError
from orchestrator.paths import user_stacks_folder
from orchestrator.system.yaml_source import YamlSource

SPEC_NAME = "stack.yaml"


@dataclass(frozen=True)
class StackEntry:
    """A stack and the folder its files are in."""

    spec: Stack
    folder: Path

    @property
    def name(self) -> str:
        """The stack's name."""
        return self.spec.stack

    @property
    def dockerfile(self) -> Path:
        """The stack's Dockerfile: beside stack.yaml, or among the built-in ones. Raises SpecError."""
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
    spec: Model
    stack: StackEntry

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories the model's predictions refer to."""
        return self.stack.spec.taxonomies[self.spec.taxonomy]

    @property
    def categories(self) -> tuple[Category, ...]:
        """Those categories, in order."""
        return self.taxonomy.categories

    @property
    def class_map(self) -> tuple[int, ...]:
        """Category id of each native class, from native.class_base up."""
        return self.spec.native.class_map or tuple(category.id for category in self.categories)

    def settings(self, overrides: Sequence[str]) -> dict[str, SettingValue]:
        """All settings with `name=value` overrides applied. Raises UsageError."""
        values = {name: setting.default for name, setting in self.spec.settings.items()}
        for override in overrides:
            name, equals, text = override.partition("=")
            if not equals:
                raise UsageError(f"--set {override}: write it as name=value")
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
        """The model of that name or alias. Raises UsageError with the nearest names."""
        found = self.models.get(self.aliases.get(name, name))
        if found is None:
            known = [*self.models, *self.aliases]
            raise UsageError(f"there is no model {name!r}", why=did_you_mean(name, known), hint="orch models")
        return found

    def stack(self, name: str) -> StackEntry:
        """The stack of that name, or of the model of that name. Raises UsageError."""
        if name in self.stacks:
            return self.stacks[name]
        if self.aliases.get(name, name) in self.models:
            return self.model(name).stack
        known = [*self.stacks, *self.models, *self.aliases]
        raise UsageError(f"there is no stack or model {name!r}", why=did_you_mean(name, known), hint="orch models")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the names nearest to `name`, or with all of them."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(names)}" if names else "there is none"


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
    from_variable = [Path(part) for part in os.environ.get("ORCH_STACKS", "").split(os.pathsep) if part]
    named = [*extra, *from_variable]
    for parent in named:
        if not parent.is_dir():
            raise UsageError(f"there is no folder of stacks at {parent}")
    folders: list[Path] = []
    for parent in [STACKS, *named, user_stacks_folder()]:
        if (parent / SPEC_NAME).is_file():
            found = [parent.resolve()]
        else:
            found = sorted(path.parent.resolve() for path in parent.glob(f"*/{SPEC_NAME}"))
        if not found and parent in named:
            raise UsageError(
                f"there is no stack in {parent}", why=f"neither {SPEC_NAME} nor a folder with one is there"
            )
        folders += found
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
        # A misspelt field first: it is why another one is missing.
        found = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        problems = [_problem(source, dict(item)) for item in found]
        raise SpecError(problems[0], why="\n".join(problems[1:]) or None) from None
    return StackEntry(spec, folder)


def _fill_in_categories(source: YamlSource) -> None:
    """`categories: NAME` stands for a list that comes with orch, which stacks share. Raises SpecError."""
    taxonomies = source.value.get("taxonomies")
    for name, taxonomy in taxonomies.items() if isinstance(taxonomies, dict) else ():
        shared = taxonomy.get("categories") if isinstance(taxonomy, dict) else None
        if not isinstance(shared, str):
            continue
        known = sorted(path.stem for path in TAXONOMIES.glob("*.yaml"))
        if shared not in known:
            location = ("taxonomies", name, "categories")
            raise SpecError(
                f"{source.path}:{source.line(location)}: {'.'.join(location)}: no categories {shared!r} come with orch",
                why=did_you_mean(shared, known),
            )
        taxonomy["categories"] = YamlSource(TAXONOMIES / f"{shared}.yaml").value


def _problem(source: YamlSource, item: Mapping[str, Any]) -> str:
    cause = item.get("ctx", {}).get("error")
    location = (*item["loc"], *(cause.location if isinstance(cause, ReferenceFault) else ()))
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = f"there is no such field{_field_hint(location)}"
    elif item["type"] == "missing":
        message = "this field is missing"
    return f"{source.path}:{source.line(location)}: {'.'.join(str(part) for part in location)}: {message}"


def _field_hint(location: Sequence[str | int]) -> str:
    """The nearest name among the fields of the spec in question, for a misspelt one."""
    kind: Any = Stack
    for part in location[:-1]:
        if isinstance(kind, type) and issubclass(kind, Spec):
            kind = kind.model_fields[str(part)].annotation
        else:  # Mapping[str, Kind] or tuple[Kind, ...]
            kind = [argument for argument in get_args(kind) if argument is not Ellipsis][-1]
    near = difflib.get_close_matches(str(location[-1]), kind.model_fields, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (there is {', '.join(kind.model_fields)})"
