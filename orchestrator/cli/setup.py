"""`orch doctor`, `orch new` and `orch demo`: getting started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.common import (
    JsonOption,
    RuntimeOption,
    StacksOption,
    catalog,
    check_file,
    check_folder,
    print_json,
    say,
    say_text,
    show_line,
)
from orchestrator.cli.completion import complete_model
from orchestrator.cli.plan import preview_model, show
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, MachineError, UsageError

new = typer.Typer(help="Create a model, a stack or a comparison.", no_args_is_help=True, rich_markup_mode=None)


@new.callback()
def _new() -> None:
    """Create a model, a stack or a comparison."""


def doctor(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Also show where this model would run.")] = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> int:
    """Examine this machine: engine, GPUs, Python, disk; with the next step where something is missing."""
    entry = None if model is None else catalog(stacks).model(model)
    from orchestrator.workflows import examine_machine

    findings = examine_machine()
    has_problem = any(finding.status == "problem" for finding in findings)
    code = MachineError.exit_code if has_problem else EXIT_OK
    document: dict[str, Any] = {"findings": [finding.as_json() for finding in findings]}
    if not json:
        rows = [[one.what, one.status, one.found, one.step] for one in findings]
        print_table(["", "status", "found", "next step"], rows)
    if entry is not None:
        preview = preview_model(entry)
        document["plan"] = preview.as_json()
        code = code or preview.exit_code
        if not json:
            show_line("")
            show(preview)
    if json:
        print_json(document)
    return code


@new.command("stack")
def new_stack(
    name: str,
    folder: Annotated[Path, typer.Option("--into", callback=check_folder, help="Folder of your stacks.")] = Path(
        "stacks"
    ),
    json: JsonOption = False,
) -> None:
    """Write a working skeleton of a stack: stack.yaml, Dockerfile, predictor, locked requirements."""
    from orchestrator.catalog import create_stack

    created = create_stack(name, folder)
    if json:
        print_json({"stack": name, "folder": str(created)})
        return
    say(f"wrote {created}")
    say(f"  try:  orch run --stacks {folder} --model {name}-example --images FOLDER")
    say(f"  edit: {created / 'predictor.py'}, then {created / 'stack.yaml'}")


@new.command("model")
def new_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new model's name.")],
    like: Annotated[
        str,
        typer.Option(
            "--like", metavar="MODEL", autocompletion=complete_model, help="A model with the same architecture."
        ),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", "-w", metavar="FILE", help="Your weights: a file, folder or URL; or KEY=FILE."),
    ] = None,
    categories: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="In the order of its classes: a,b,c, or a file: COCO's .json, or id:name."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your configuration file in place of the base model's.")
    ] = None,
    folder: Annotated[Path, typer.Option("--into", callback=check_folder, help="Folder of your stacks.")] = Path(
        "stacks"
    ),
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Write a model.yaml: your own weights on the architecture and environment of a model that exists."""
    from orchestrator.catalog import create_model

    if config is not None and not config.is_file():
        raise UsageError(f"--config {config} is not a file")
    created = create_model(catalog(_own_stacks(stacks, folder)), name, like, weights or [], categories, config, folder)
    if json:
        print_json({"model": name, "file": str(created)})
        return
    say(f"wrote {created}")
    say(f"  try:  orch run --stacks {folder} --model {name} --images FOLDER")


def _own_stacks(stacks: list[Path] | None, folder: Path) -> list[Path]:
    """Return the folders to look in: a name that `folder` has already is taken."""
    has_any = any(folder.glob("*/stack.yaml")) or any(folder.glob("*/model.yaml"))
    return [*(stacks or []), *([folder] if has_any else [])]


@new.command("comparison")
def new_comparison(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", callback=check_file)] = Path("orch.yaml"),
    json: JsonOption = False,
) -> None:
    """Write an orch.yaml to be changed: models, images, settings, truth, for orch run -f."""
    from orchestrator.workflows import write_example

    write_example(file)
    if json:
        print_json({"file": str(file)})
        return
    say(f"wrote {file}")
    say(f"  edit it, then: orch run -f {file}")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", callback=check_folder, help="Folder to work in.")] = Path(
        "orch-demo"
    ),
    runtime: RuntimeOption = "auto",
    scenes: Annotated[int, typer.Option(min=1, max=1000, help="Held-out scenes to draw.")] = 60,
    json: JsonOption = False,
) -> int:
    """Run two stacks whose dependencies conflict on scenes and photographs, and draw the results."""
    from orchestrator.cli.progress import make_display
    from orchestrator.workflows import run_demo

    result = run_demo(out, runtime, scenes, make_display(json=json, quiet=False))
    if json:
        print_json(result.as_json())
    else:
        say_text(result.text())
    return EXIT_OK
