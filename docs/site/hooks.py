"""Pages of the site that are made from the code: the front page, the reference of commands, that of Python.

Links of the other pages to files outside of docs/ become links to nothing but their names: the site has no repository.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import orchestrator
from orchestrator.cli import app

ROOT = Path(__file__).parents[2]
WIDTH = 100
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?!https?:|#)(?:\.\./)+[^)]*\)")
_LINK_IN_README = re.compile(r"\((docs/)([^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    pages = {"index.md": front_page(), "commands.md": commands_page(), "python-reference.md": python_page()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep only the words of links that lead out of docs/."""
    return _OUTSIDE.sub(r"\1", markdown)


def front_page() -> str:
    """Return README.md with its links as seen from the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = _LINK_IN_README.sub(r"(\2)", text)
    return re.sub(r"\[([^\]]+)\]\((?:CONTRIBUTING|CHANGELOG|SECURITY|LICENSE|NOTICE)[^)]*\)", r"\1", text)


def commands_page() -> str:
    """Return the help of every command."""
    group = typer.main.get_command(app)
    parts = ["# Commands\n", "What `orch COMMAND --help` prints.\n"]
    for name, text in _help_texts(group, None, "orch"):
        parts.append(f"## {name}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _help_texts(command: Any, parent: Any, name: str) -> Iterator[tuple[str, str]]:
    context_class = getattr(command, "context_class", None)
    context = context_class(command, parent=parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    yield context.command_path, command.get_help(context)
    for child, found in getattr(command, "commands", {}).items():
        yield from _help_texts(found, context, child)


def python_page() -> str:
    """Return signatures and docstrings of what `import orchestrator` offers."""
    parts = ["# Python\n", "How they are used together: [From Python](python.md).\n"]
    for name in orchestrator.__all__:
        thing = getattr(orchestrator, name)
        if not callable(thing):
            continue
        parts.append(_describe(f"orchestrator.{name}", thing, "##"))
        if inspect.isclass(thing):
            parts += [_describe(method, member, "###") for method, member in _members(thing)]
    return "\n".join(parts)


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(thing).items():
        if not name.startswith("_"):
            yield name, member


def _describe(name: str, thing: Any, heading: str) -> str:
    target = getattr(thing, "__func__", None) or getattr(thing, "fget", None) or getattr(thing, "func", None) or thing
    signature = str(inspect.signature(target)).replace("'", "") if target is thing or hasattr(thing, "__func__") else ""
    text = inspect.getdoc(target) or ""
    return f"{heading} {name.rpartition('.')[2]}\n\n```python\n{name}{signature}\n```\n\n{text}\n"
