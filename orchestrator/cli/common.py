"""What the commands share: options, and the one way of printing for people (stderr) and for programs (stdout)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import OrchError

if TYPE_CHECKING:
    from orchestrator.catalog.loader import Catalog

StacksOption = Annotated[
    list[Path] | None, typer.Option("--stacks", metavar="DIR", help="A folder of stacks of your own; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Fetch nothing: use what the cache has.")]
RuntimeOption = Annotated[
    str, typer.Option("--runtime", help="docker, venv, or auto: docker where an engine answers, else venv.")
]
VariantOption = Annotated[str | None, typer.Option("--variant", help="The variant; the one that fits by default.")]


def catalog(stacks: list[Path] | None) -> Catalog:
    """All stacks there are."""
    from orchestrator.catalog.loader import load_catalog

    return load_catalog(stacks or [])


def say(message: str) -> None:
    """For people: stderr."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """For programs: one JSON object on stdout, in ASCII so that no terminal's encoding can spoil it."""
    print(json.dumps(value, indent=2, default=str), flush=True)


def print_error(error: OrchError, about: str | None = None) -> None:
    """What failed, why, where the log is, what to type next; `about` one of several things that were asked for."""
    lines = [f"error: {about}: {error.message}" if about else f"error: {error.message}"]
    if error.why:
        first, *rest = error.why.splitlines()
        lines += [f"  why:  {first}", *(f"        {line}" for line in rest)]
    if error.log:
        lines.append(f"  log:  {error.log}")
    if error.hint:
        lines.append(f"  next: {error.hint}")
    say("\n".join(lines))
