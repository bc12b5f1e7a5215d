"""`orch prune`: show what orch left behind, ask for confirmation, remove it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonOption, StacksOption, catalog, find_stacks, print_json, say
from orchestrator.cli.completion import complete_stack
from orchestrator.cli.tables import print_table
from orchestrator.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from orchestrator.workflows import Leftover

LONGEST_REASON = 200


def prune(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also remove what stacks need now and would build again. Never weights, never runs."
        ),
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--stack",
            metavar="STACK",
            autocompletion=complete_stack,
            help="Only what belongs to this stack; repeatable.",
        ),
    ] = None,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Only images, environments and sources older than this.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Remove images, containers, environments and logs that no stack needs any more."""
    if not (dry_run or yes) and (json or not sys.stdin.isatty()):
        raise UsageError(
            "cannot ask for confirmation: this is no terminal",
            hint="orch prune --dry-run shows what would be removed, --yes removes it",
        )
    from orchestrator.workflows import Scope, find_leftovers, remove_leftovers

    known, given = catalog(stacks), names or []
    # A stack that the catalog lacks may have left something.
    others = {name for name in given if name not in known.stacks and find_leftovers(known, Scope(True, (name,)))[0]}
    chosen = tuple(find_stacks(given, known, others, "orch models lists models and their stacks"))
    leftovers, notes = find_leftovers(known, Scope(everything, chosen, older_than))
    document: dict[str, Any] = {
        "found": [one.as_json() for one in leftovers],
        "bytes": sum(one.bytes for one in leftovers),
        "notes": notes,
    }
    if not json:
        _show(leftovers, notes)
    if leftovers and not dry_run and (yes or _confirm()):
        done = remove_leftovers(leftovers)
        document["removed"] = [one.name for one in done.removed]
        document["kept"] = [{"name": one.name, "why": why} for one, why in done.kept]
        if not json:
            for one, why in done.kept:
                say(f"kept: {one.name}: {why[:LONGEST_REASON]}")
            say(f"removed {len(done.removed)}, {sum(one.bytes for one in done.removed) / 1e9:.2f} GB at most")
    if json:
        print_json({"dry_run": dry_run, **document})


def _confirm() -> bool:
    """Ask on the terminal. Raises Interrupted for Ctrl-C and the end of the input."""
    try:
        return typer.confirm("remove all of this?", err=True)
    except typer.Abort:
        say("")  # the question has no end of line
        hint = "orch prune asks again; orch prune --yes removes it without a question"
        raise Interrupted("nothing was removed", why="the question was not answered", hint=hint) from None


def _show(leftovers: list[Leftover], notes: list[str]) -> None:
    for note in notes:
        say(f"note: {note}")
    if not leftovers:
        say("nothing to remove")
        return
    rows = [[one.kind, _short(one.name), f"{one.bytes / 1e6:.0f}", one.why] for one in leftovers]
    print_table(["", "name", "MB", "why"], rows)
    say(f"{sum(one.bytes for one in leftovers) / 1e9:.2f} GB at most: images share layers")


def _short(name: str) -> str:
    home = str(Path.home())
    return f"~{name[len(home) :]}" if name.startswith(f"{home}/") else name
