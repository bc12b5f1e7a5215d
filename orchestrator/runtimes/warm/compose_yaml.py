"""How a Compose file is written: shared parts once, under an anchor; comments above services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


class Shared(dict[str, Any]):
    """A mapping that is written once, under the anchor `name`, and referred to wherever it occurs again."""

    def __init__(self, name: str, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.name = name


class Line(dict[str, Any]):
    """A mapping that is written in one line."""


class _Merge(str):
    """YAML's merge key: it has to be written without the quotes that any other text of two characters < would get."""


MERGE = _Merge("<<")


class _Dumper(yaml.SafeDumper):
    anchors_of: dict[int, str]

    def ignore_aliases(self, data: Any) -> bool:
        """Whether a value is written out each time."""
        return not isinstance(data, Shared)

    def generate_anchor(self, node: yaml.Node) -> str:
        """The anchor's name."""
        return self.anchors_of[id(node)]


def _represent_shared(dumper: _Dumper, data: Shared) -> yaml.Node:
    node = dumper.represent_mapping("tag:yaml.org,2002:map", data)
    dumper.anchors_of = {**getattr(dumper, "anchors_of", {}), id(node): data.name}
    return node


def _represent_line(dumper: _Dumper, data: Line) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, dict | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


def _represent_merge(dumper: _Dumper, data: _Merge) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:merge", str(data))


_Dumper.add_representer(Shared, _represent_shared)
_Dumper.add_representer(Line, _represent_line)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(_Merge, _represent_merge)


def render(header: str, document: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """The file's text; `comments` are by the names of services."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=160, allow_unicode=True)
    for number, name in enumerate(document["services"]):
        comment = f"  # {comments[name]}\n" if name in comments else ""
        gap = "\n" if number else ""
        text = text.replace(f"\n  {name}:\n", f"\n{gap}{comment}  {name}:\n", 1)
    for part in ("x-worker", "x-environment", "services", "volumes"):
        text = text.replace(f"\n{part}:", f"\n\n{part}:", 1)
    return header + text
