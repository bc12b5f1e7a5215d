"""Write Compose files: shared parts once, under an anchor; comments above services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


class SharedMapping(dict[str, Any]):
    """A mapping that is written once, under the anchor `name`, and referred to where it occurs again."""

    def __init__(self, name: str, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.name = name


class InlineMapping(dict[str, Any]):
    """A mapping that is written on one line."""


class _Merge(str):
    """YAML's merge key, which is written without the quotes that any other text `<<` would get."""


MERGE = _Merge("<<")


class _Dumper(yaml.SafeDumper):
    anchors_of: dict[int, str]

    def ignore_aliases(self, data: Any) -> bool:
        """Return whether a value is written out each time."""
        return not isinstance(data, SharedMapping)

    def generate_anchor(self, node: yaml.Node) -> str:
        """Return the anchor's name."""
        return self.anchors_of[id(node)]


def _represent_shared(dumper: _Dumper, data: SharedMapping) -> yaml.Node:
    node = dumper.represent_mapping("tag:yaml.org,2002:map", data)
    dumper.anchors_of = {**getattr(dumper, "anchors_of", {}), id(node): data.name}
    return node


def _represent_line(dumper: _Dumper, data: InlineMapping) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


def _represent_merge(dumper: _Dumper, data: _Merge) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:merge", str(data))


_Dumper.add_representer(SharedMapping, _represent_shared)
_Dumper.add_representer(InlineMapping, _represent_line)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(_Merge, _represent_merge)


def render(header: str, document: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return the file's text; `comments` has lines to write above services, by service name."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=160, allow_unicode=True)
    for number, name in enumerate(document["services"]):
        comment = f"  # {comments[name]}\n" if name in comments else ""
        gap = "\n" if number else ""
        text = text.replace(f"\n  {name}:\n", f"\n{gap}{comment}  {name}:\n", 1)
    for part in ("x-worker", "x-environment", "services", "volumes"):
        text = text.replace(f"\n{part}:", f"\n\n{part}:", 1)
    return header + text
