"""`orch prune`: show what orch left behind, ask, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import JsonOption, StacksOption, catalog, print_json, say
from orchestrator.cli.tables import print_table
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.workflows.prune.leftovers import Leftover

LONGEST_REASON = 200


def prune(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what stacks need now: they build anew. Never weights, never runs.")
    ] = False,
    names: Annotated[
        list[str] | None, typer.Option("--stack", metavar="STACK", help="Only what is of this stack; repeatable.")
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(min=0, metavar="DAYS", help="Only images, environments and sources made more than so long ago."),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Remove images, containers, environments and logs that orch left and no stack needs any more."""
    if not (dry_run or yes) and (json or not sys.stdin.isatty()):
        raise UsageError(
            "nobody is there to be asked", hint="orch prune --dry-run shows what would go, --yes removes it"
        )
    from orchestrator.workflows.prune.leftovers import Scope, find_leftovers
    from orchestrator.workflows.prune.leftovers import prune as remove

    found, notes = find_leftovers(catalog(stacks), Scope(everything, tuple(names or ()), older_than))
    told = {"found": [one.as_json() for one in found], "bytes": sum(one.bytes for one in found), "notes": notes}
    if not json:
        _show(found, notes)
    if found and not dry_run and (yes or typer.confirm("remove all of this?", err=True)):
        done = remove(found)
        told["removed"] = [one.name for one in done.removed]
        told["kept"] = [{"name": one.name, "why": why} for one, why in done.kept]
        if not json:
            for one, why in done.kept:
                say(f"stays: {one.name}: {why[:LONGEST_REASON]}")
            say(f"removed {len(done.removed)}, {sum(one.bytes for one in done.removed) / 1e9:.2f} GB at most")
    if json:
        print_json({"dry_run": dry_run, **told})


def _show(found: list[Leftover], notes: list[str]) -> None:
    for note in notes:
        say(f"note: {note}")
    if not found:
        say("there is nothing to remove")
        return
    rows = [[one.kind, _short(one.name), f"{one.bytes / 1e6:.0f}", one.why] for one in found]
    print_table(["", "name", "MB", "why"], rows)
    say(f"{sum(one.bytes for one in found) / 1e9:.2f} GB at most: images share layers")


def _short(name: str) -> str:
    """A path as one types it."""
    home = str(Path.home())
    return f"~{name[len(home) :]}" if name.startswith(f"{home}/") else name
