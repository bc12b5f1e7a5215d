"""`orch schema`: JSON Schemas of the files that people write, for editors and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import check_file, print_json, say
from orchestrator.errors import UsageError
from orchestrator.system import unknown_name, write_text

FILES = ("stack.yaml", "model.yaml", "orch.yaml")


def schema(
    name: Annotated[str, typer.Argument(metavar="FILE", help=f"One of {', '.join(FILES)}.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", callback=check_file, help="Write it into this file."),
    ] = None,
) -> None:
    """Print the JSON Schema of a file that people write, for editors."""
    if name not in FILES:
        raise unknown_name("file", name, FILES, hint="orch schema --help")
    document = make_schema(name)
    if output is None:
        print_json(document)
        return
    if output.is_dir():
        raise UsageError(f"{output} is a folder", hint=f"orch schema {name} -o {output / name}.schema.json")
    write_text(output, json.dumps(document, indent=2) + "\n")
    say(f"wrote {output}; the first line of {name} for editors: # yaml-language-server: $schema={output}")


def make_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of one of FILES."""
    from orchestrator.catalog import ModelFile, Stack
    from orchestrator.workflows import ComparisonSpec

    kinds: dict[str, Any] = {"stack.yaml": Stack, "model.yaml": ModelFile, "orch.yaml": ComparisonSpec}
    content: dict[str, Any] = kinds[name].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **content, "description": name}
