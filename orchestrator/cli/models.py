"""`orch models`: list models, show one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import JsonOption, StacksOption, catalog, print_json, show_line
from orchestrator.cli.completion import complete_model
from orchestrator.cli.panels import PanelGroup
from orchestrator.cli.tables import print_table

if TYPE_CHECKING:
    from orchestrator.catalog import ModelEntry


class _ModelsGroup(PanelGroup):
    """`orch models`, where any other word than a command is the name of a model to show."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the first word, or `show` with all of them."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the commands and the models that begin so."""
        (name,) = (param for param in self.commands["show"].params if param.name == "name")
        return [*super().shell_complete(ctx, incomplete), *name.shell_complete(ctx, incomplete)]


app = typer.Typer(
    cls=_ModelsGroup, help="List the models, or show one.", invoke_without_command=True, rich_markup_mode=None
)


@app.callback(options_metavar="[OPTIONS]", subcommand_metavar="[MODEL]")
def models(context: typer.Context, stacks: StacksOption = None, json: JsonOption = False) -> None:
    """List all models, or show one: orch models MODEL."""
    context.obj = (stacks, json)
    if context.invoked_subcommand is None:
        list_models(context)


@app.command("list")
def list_models(context: typer.Context, stacks: StacksOption = None, json: JsonOption = False) -> None:
    """List all models."""
    earlier_stacks, earlier_json = context.obj
    stacks, json = [*(earlier_stacks or []), *(stacks or [])], json or earlier_json
    entries = catalog(stacks).models.values()
    if json:
        print_json({"models": [_as_json(entry) for entry in entries]})
        return
    rows = []
    for entry in entries:
        spec, stack = entry.spec, entry.stack
        rows.append([entry.name, stack.name, spec.task, ", ".join(stack.spec.variants), _weights(entry), spec.title])
    print_table(["model", "stack", "task", "variants", "weights", "title"], rows, optional=["variants", "task"])


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="A model or an alias of it.")
    ],
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Show one model: weights, categories, defaults, settings."""
    earlier_stacks, earlier_json = context.obj  # of `orch models --json show MODEL`
    entry = catalog([*(earlier_stacks or []), *(stacks or [])]).model(name)
    if json or earlier_json:
        print_json(_as_json(entry))
        return
    spec, defaults = entry.spec, entry.spec.defaults
    from orchestrator.catalog import MODEL_FILE, get_task
    from orchestrator.plan import most_detections, score_floor

    floor = score_floor(entry, entry.settings(()), None)
    facts: list[tuple[str, str]] = [
        ("model", entry.name),
        ("title", spec.title),
        ("aliases", ", ".join(spec.aliases)),
        ("task", f"{spec.task}: {get_task(spec.task).summary}"),
        ("paper", spec.paper or ""),
        ("licence", spec.licence),
        ("like", entry.architecture if entry.file.name == MODEL_FILE else ""),
        ("described in", str(entry.file) if entry.file.name == MODEL_FILE else ""),
        ("stack", f"{entry.stack.name}: {entry.stack.spec.title} ({entry.stack.folder})"),
        *(
            (f"variant {name}", f"{variant.device}, Python {variant.python}, {variant.base_image}")
            for name, variant in entry.stack.spec.variants.items()
        ),
        *((f"weights {key}", _origin(entry, key)) for key in spec.weights),
        ("categories", ", ".join(f"{category.id} {category.name}" for category in entry.categories)),
        ("score floor", "none" if floor is None else f"{floor:g}"),
        ("max detections", str(most_detections(entry, entry.settings(()), None) or "none")),
        ("batch size", str(defaults.batch_size)),
        *((f"--set {name}={setting.default}", setting.help) for name, setting in spec.settings.items()),
        ("published recipe", ", ".join(f"--set {name}={value}" for name, value in spec.recipe.items())),
        ("notes", spec.notes or ""),
    ]
    width = max(len(name) for name, text in facts if text)
    for label, text in facts:
        for number, line in enumerate(text.splitlines()):
            show_line(f"{'' if number else label:<{width}}  {line}")


def _weights(entry: ModelEntry) -> str:
    from orchestrator.catalog import weights_state

    return ", ".join(sorted({weights_state(entry, key) for key in entry.spec.weights})) or "none"


def _origin(entry: ModelEntry, key: str) -> str:
    from orchestrator.catalog import weights_state

    weight = entry.spec.weights[key]
    origin = weight.url or weight.manual or weight.path or weight.bundled or f"package {weight.package}"
    return f"{weight.file}, {weights_state(entry, key)}, {weight.licence}, from {origin}"


def _as_json(entry: ModelEntry) -> dict[str, Any]:
    from orchestrator.catalog import weights_state

    return {
        "name": entry.name,
        "stack": entry.stack.name,
        "file": str(entry.file),
        "variants": {name: variant.model_dump(mode="json") for name, variant in entry.stack.spec.variants.items()},
        "weights_state": {key: weights_state(entry, key) for key in entry.spec.weights},
        "categories": [category.model_dump() for category in entry.categories],
        **entry.spec.model_dump(mode="json"),
    }
