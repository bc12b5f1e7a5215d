"""`orch weights`: list, fetch, add and verify weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import JsonOption, OfflineOption, StacksOption, catalog, print_json, say
from orchestrator.cli.completion import complete_model
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, MachineError

app = typer.Typer(help="List, fetch, add and verify weights.", no_args_is_help=True, rich_markup_mode=None)
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="See orch models.")]


@app.command("list")
def list_weights(stacks: StacksOption = None, json: JsonOption = False) -> None:
    """List the weights of all models, and whether they are cached."""
    from orchestrator.catalog import weights_state

    rows = [
        [
            entry.name,
            key,
            weight.file,
            weights_state(entry, key),
            weight.licence,
            weight.url
            or weight.manual
            or weight.path
            or ("with orch" if weight.bundled else f"package {weight.package}"),
        ]
        for entry in catalog(stacks).models.values()
        for key, weight in entry.spec.weights.items()
    ]
    columns = ["model", "key", "file", "state", "licence", "from"]
    if json:
        print_json({"weights": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        print_table(columns, rows, optional=["licence", "key"])


@app.command("fetch")
def fetch(
    model: ModelArgument, offline: OfflineOption = False, stacks: StacksOption = None, json: JsonOption = False
) -> None:
    """Fetch a model's weights into the cache.

    A download that was interrupted is resumed.
    """
    from orchestrator.catalog import ensure_weights
    from orchestrator.cli.progress import make_display

    entry = catalog(stacks).model(model)
    display = make_display(json=json, quiet=False)
    stored = ensure_weights(entry, offline=offline, progress=display.transfer)
    if json:
        print_json({"model": entry.name, "weights": {key: dict(one.as_job()) for key, one in stored.items()}})
        return
    for key, one in stored.items():
        display.say(
            f"{key}: {one.path or f'{one.file} in the package {one.package}'}, sha256 {one.sha256 or 'unknown'}"
        )


@app.command("add")
def add(
    model: ModelArgument,
    path: Annotated[Path, typer.Argument(help="File, folder or archive with the weights.")],
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Which weights of a model that has several.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace other weights; also take a file that does not look like weights.")
    ] = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Add weights that you have to the cache."""
    from orchestrator.catalog import add_weights

    entry = catalog(stacks).model(model)
    stored = add_weights(entry, path, key, force=force)
    if json:
        print_json({"model": entry.name, "key": stored.key, "path": str(stored.path), "sha256": stored.sha256})
    else:
        say(f"{stored.key}: {stored.path}, sha256 {stored.sha256 or 'none: a folder'}")


@app.command("verify")
def verify(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="Default: all models.")
    ] = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Compare cached weights with their digests.

    Reads all weights that are cached, or those of one model.
    """
    from orchestrator.catalog import verify_weights, weights_state

    known = catalog(stacks)
    entries = list(known.models.values()) if model is None else [known.model(model)]
    if model is None:
        entries = [one for one in entries if all(weights_state(one, key) != "missing" for key in one.spec.weights)]
    findings = [(entry.name, *finding) for entry in entries for finding in verify_weights(entry)]
    wrong = [name for name, _, _, right in findings if not right]
    if json:
        columns = ("model", "key", "finding", "right")
        print_json({"weights": [dict(zip(columns, one, strict=True)) for one in findings]})
        raise typer.Exit(MachineError.exit_code if wrong else EXIT_OK)
    print_table(["model", "key", "", "finding"],
                [[name, key, "ok" if right else "WRONG", text] for name, key, text, right in findings])  # fmt: skip
    if wrong:
        raise MachineError(f"wrong weights: {', '.join(wrong)}", hint=f"orch weights fetch {wrong[0]}")
