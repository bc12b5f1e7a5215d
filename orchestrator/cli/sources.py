"""`orch sources`: upstream code that builds need; fetched in advance for machines without a network."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.common import JsonOption, StacksOption, catalog, print_json
from orchestrator.cli.completion import complete_stack
from orchestrator.cli.tables import print_table

app = typer.Typer(help="List and fetch the upstream code of stacks.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_sources(stacks: StacksOption = None, json: JsonOption = False) -> None:
    """List the upstream code of all stacks, and whether it is cached."""
    from orchestrator.catalog import source_state

    rows = [
        [stack.name, name, source.commit[:12], source_state(name, source), source.url]
        for stack in catalog(stacks).stacks.values()
        for name, source in stack.spec.sources.items()
    ]
    columns = ["stack", "source", "commit", "state", "from"]
    if json:
        print_json({"sources": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        print_table(columns, rows)


@app.command("fetch")
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="STACK", autocompletion=complete_stack, help="Default: all stacks.")
    ] = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch upstream code into the cache for `orch build --offline`."""
    from orchestrator.catalog import ensure_sources
    from orchestrator.cli.progress import make_display

    known = catalog(stacks)
    chosen = [known.stack(name) for name in names] if names else list(known.stacks.values())
    display = make_display(json=json, quiet=False)
    fetched = {stack.name: ensure_sources(stack.name, stack.spec.sources, display.detail) for stack in chosen}
    if json:
        named = {stack: {name: str(path) for name, path in one.items()} for stack, one in fetched.items()}
        print_json({"sources": named})
        return
    for stack, sources in fetched.items():
        for name, path in sources.items():
            display.say(f"{stack}: {name}: {path}")
    if not any(fetched.values()):
        display.say("these stacks need no upstream code")
