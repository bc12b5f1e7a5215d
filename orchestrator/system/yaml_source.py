"""Read YAML safely, find the line of a field, and format pydantic's errors as "file:line: field: message"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import yaml

from orchestrator.errors import SpecError
from orchestrator.system.suggestions import did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError

MOST_PROBLEMS = 10
"""Of one file, that its error lists after the first."""
MOST_NESTED = 100
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it, as its wheels are: every command reads all stacks."""


class FieldError(ValueError):
    """A field that does not fit another one; `location` leads to it from the model whose validator raises this."""

    def __init__(self, location: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.location = location


class YamlSource:
    """A YAML file, parsed by the safe loader. Raises SpecError, also for equal keys in one mapping."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise SpecError(f"cannot read {path}", why=why, hint="give a YAML file") from error
        try:
            self._refuse_deep_nesting(text)
            loader = _SafeLoader(text)
            self._root: yaml.Node | None = loader.get_single_node()
            self._refuse_double_keys(self._root, set())
            # As safe_load does from here on; parsing twice would slow every command down.
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            # What is missing at the end is found a line after it.
            where = f"{path}:{min(mark.line, text.rstrip().count(chr(10))) + 1}" if mark else str(path)
            raise SpecError(f"{where}: not valid YAML", why=error.problem or str(error)) from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date or number
            raise SpecError(f"{path}: not valid YAML", why=str(error)) from error

    def line(self, location: Sequence[str | int]) -> int:
        """Return the 1-based line of the deepest part of `location` that the file has."""
        node: yaml.Node | None = self._root
        line = 1
        for part in location:
            child = _child(node, part)
            if child is None:
                break
            line, node = child
        return line

    def _refuse_deep_nesting(self, text: str) -> None:
        """Raise SpecError for nesting that would exhaust the stack, by the parser's events, which need none."""
        depth = 0
        for event in yaml.parse(text, Loader=_SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_NESTED:
                raise SpecError(f"{self.path}: not valid YAML", why="it is nested too deeply")

    def _refuse_double_keys(self, node: yaml.Node | None, visited: set[int]) -> None:
        if node is None or id(node) in visited:  # an alias leads to a node again, or in circles
            return
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_double_keys(item, visited)
        if not isinstance(node, yaml.MappingNode):
            return
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise SpecError(f"{self.path}:{line}: {key.value}: given twice in the same mapping")
                seen.add(key.value)
            self._refuse_double_keys(value, visited)


def spec_error(error: ValidationError, source: YamlSource, root: Any, *, hint: str | None = None) -> SpecError:
    """Return the error of a file that does not fit the pydantic model `root`, with its first problems."""
    first, *others = describe_errors(error, source, root)
    more = [f"and {len(others) - MOST_PROBLEMS} more"] if len(others) > MOST_PROBLEMS else []
    return SpecError(first, why="\n".join((*others[:MOST_PROBLEMS], *more)) or None, hint=hint)


def describe_errors(error: ValidationError, source: YamlSource | Path | str, root: Any) -> list[str]:
    """Return pydantic's errors as lines "file:line: field: message".

    `source` without lines gives "source: field: message". `root` is the model that was validated. Unknown fields
    come first: a misspelt field is the reason why another one is missing.
    """
    items = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    return [_describe(dict(item), source, root) for item in items]


def _describe(item: Mapping[str, Any], source: YamlSource | Path | str, root: Any) -> str:
    cause = item.get("ctx", {}).get("error")
    location, siblings = _resolve(root, item["loc"])
    if isinstance(cause, FieldError):
        location += cause.location
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        message = "this field is missing"
    elif item["type"] == "extra_forbidden":
        suggestion = did_you_mean(str(location[-1]), siblings)
        message = "unknown field" + (f" ({suggestion})" if suggestion else "")
    where = f"{source.path}:{source.line(location)}" if isinstance(source, YamlSource) else str(source)
    return f"{where}: {'.'.join(map(str, location))}: {message}"


def _resolve(kind: Any, location: Sequence[str | int]) -> tuple[list[str | int], list[str]]:
    """Return a location below the type `kind` as it is in the file, and the fields of the model its end is in.

    In a union pydantic's location also names the type; the file does not.
    """
    path: list[str | int] = []
    fields: list[str] = []
    for part in location:
        kind = _bare_type(kind)
        fields = list(getattr(kind, "model_fields", ()))
        if fields and part == kind.__name__:
            continue
        path.append(part)
        if part in fields:
            kind = kind.model_fields[part].annotation
        elif not fields:  # Mapping[str, Kind] or tuple[Kind, ...]
            kind = next((argument for argument in reversed(get_args(kind)) if argument is not Ellipsis), None)
    return path, fields


def _bare_type(kind: Any) -> Any:
    """Return a type without Annotated and None; of other unions the first type."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = get_args(kind)[0]
    return kind


def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line + 1, item
    return None
