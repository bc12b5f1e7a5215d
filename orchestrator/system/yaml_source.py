"""YAML with line numbers: parse safely, and find the line that a field of the parsed value came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import SpecError


class YamlSource:
    """A YAML file, parsed by the safe loader; equal keys in one mapping are an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"cannot read {path}", why=str(error)) from error
        try:
            loader = yaml.SafeLoader(text)
            self._root: yaml.Node | None = loader.get_single_node()
            self._refuse_double_keys(self._root, set())
            # What safe_load does from here on: parsing twice would be felt with every command.
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise SpecError(f"{where}: not valid YAML", why=error.problem or str(error)) from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that there is not
            raise SpecError(f"{path}: not valid YAML", why=str(error)) from error
        except RecursionError:
            raise SpecError(f"{path}: not valid YAML", why="it is nested too deeply") from None

    def line(self, location: Sequence[str | int]) -> int:
        """The 1-based line of the deepest part of `location` that the file has."""
        node: yaml.Node | None = self._root
        line = 1
        for part in location:
            found = _child(node, part)
            if found is None:
                break
            line, node = found
        return line

    def _refuse_double_keys(self, node: yaml.Node | None, visited: set[int]) -> None:
        if node is None or id(node) in visited:  # an alias leads to a node a second time, or in circles
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


def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line + 1, item
    return None
