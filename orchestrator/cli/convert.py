"""`orch convert`: convert a checkpoint to the weights of a stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import JsonOption, OfflineOption, StacksOption, catalog, check_file, print_json
from orchestrator.cli.completion import complete_model, complete_stack
from orchestrator.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from orchestrator.catalog import Catalog, ModelEntry, StackEntry
    from orchestrator.system import Display
    from orchestrator.workflows import Converted


def convert(
    stack: Annotated[str, typer.Argument(metavar="STACK", autocompletion=complete_stack, help="A stack, e.g. facere.")],
    checkpoint: Annotated[Path, typer.Option("--ckpt", metavar="FILE", help="The checkpoint that training saved.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE", callback=check_file, help="The file to write.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=complete_model,
            help="Default: the model whose number of classes fits.",
        ),
    ] = None,
    add: Annotated[bool, typer.Option("--add", help="Add the result to the cache as the model's weights.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Also load Python objects in the checkpoint; they can run code.")
    ] = False,
    offline: OfflineOption = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> int:
    """Convert a checkpoint to ONNX weights.

    Runs in an environment of its own and checks that both give the same scores.
    """
    known = catalog(stacks)
    entry = known.stack(stack)
    wanted = None if model is None else _model_of(known, entry, model)
    from orchestrator.cli.progress import make_display
    from orchestrator.workflows import ConvertOptions, convert_checkpoint

    options = ConvertOptions(checkpoint, onnx, wanted, add, force, trust, offline)
    display = make_display(json=json, quiet=False)
    converted = convert_checkpoint(entry, options, display)
    if json:
        print_json({"stack": entry.name, **converted.as_json()})
    else:
        _say_converted(entry, converted, display)
    return EXIT_OK


def _model_of(known: Catalog, stack: StackEntry, name: str) -> ModelEntry:
    entry = known.model(name)
    if entry.stack.name != stack.name:
        why = f"{stack.name} has {', '.join(stack.spec.models)}"
        raise UsageError(f"{entry.name} is a model of the stack {entry.stack.name}, not {stack.name}", why=why)
    return entry


def _say_converted(stack: StackEntry, converted: Converted, display: Display) -> None:
    from orchestrator.workflows import suggest_model

    details = converted.details
    megabytes = converted.onnx.stat().st_size / 1e6
    about = f"{details['classes']} classes" if converted.model is None else converted.model.name
    display.say(f"{about}: {converted.onnx}, {megabytes:.1f} MB, sha256 {converted.sha256}")
    for check in details.get("checks", ()):
        display.say(
            f"  {check['width']}×{check['height']}: {check['scores_compared']} scores of PyTorch and ONNX Runtime "
            f"agree within {check['differences']['score']:.1g}"
        )
    if converted.model is None:
        display.say(f"  next: {suggest_model(stack, converted)}")
    elif converted.added is not None:
        display.say(f"added as the weights of {converted.model.name}: {converted.added.path}")
    else:
        display.say(f"  next: orch weights add {converted.model.name} {converted.onnx}")
