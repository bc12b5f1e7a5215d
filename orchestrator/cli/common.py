"""Options that commands share, and how they print: for people on stderr, for programs on stdout."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.completion import complete_runtime, complete_setting, complete_variant
from orchestrator.errors import OrchError, UsageError
from orchestrator.system import print_line, require_file, require_folder

if TYPE_CHECKING:
    from orchestrator.catalog import Catalog
    from orchestrator.runtimes import BuildOptions


StacksOption = Annotated[
    list[Path] | None, typer.Option("--stacks", metavar="DIR", help="Also use the stacks in this folder; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Download nothing: use only what is cached.")]
RuntimeOption = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME",
        autocompletion=complete_runtime,
        help="docker, venv, apptainer, or auto: docker if an engine answers, else venv.",
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        autocompletion=complete_variant,
        help="Variant of the stack. Default: the best for the device.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, GPU numbers (0,1) or UUIDs (GPU-…, MIG-…). Default: a fitting GPU, else the CPU.",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        autocompletion=complete_setting,
        help="Change a setting of the model; repeatable.",
    ),
]
BaseImageOption = Annotated[str | None, typer.Option("--base-image", metavar="IMAGE", help="Build on this base image.")]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", help="Build argument of the Dockerfile; repeatable."),
]


def _name_of(parameter: typer.CallbackParam) -> str:
    name = parameter.opts[0]
    return name if name.startswith("-") else name.upper()


def check_file(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the file that an option names, if it can be written; the check comes before all work."""
    if value is not None:
        require_file(value, _name_of(parameter))
    return value


def check_folder(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the folder that an option names, if files can be written into it."""
    if value is not None:
        require_folder(value, _name_of(parameter))
    return value


def refuse_file(parameter: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the folder that an option names. Raises UsageError where something else is in its place."""
    if value is not None and value.exists() and not value.is_dir():
        raise UsageError(f"{_name_of(parameter)} {value} is not a folder", hint="name a folder")
    return value


def catalog(stacks: list[Path] | None) -> Catalog:
    """Return all stacks: orch's own, the user's, and those in the folders `stacks`."""
    from orchestrator.catalog import load_catalog
    from orchestrator.paths import home

    home()  # a file in its place is an error before any work
    return load_catalog(stacks or [])


def find_stacks(names: Iterable[str], known: Catalog, others: Collection[str], hint: str) -> list[str]:
    """Return the stacks that names stand for, a model for its stack; `others`: stacks that the catalog may lack.

    Raises UsageError with the nearest names for an unknown one.
    """
    from orchestrator.system import unknown_name

    for name in names:
        if name not in others and name not in known.stacks and known.aliases.get(name, name) not in known.models:
            all_names = [*known.stacks, *known.models, *known.aliases, *others]
            raise unknown_name("stack or model", name, all_names, hint=hint)
    return list(dict.fromkeys(name if name in others else known.stack(name).name for name in names))


def make_build_options(
    base_image: str | None, build_args: list[str] | None, *, rebuild: bool, offline: bool
) -> BuildOptions:
    """Return the options of a build. Raises UsageError for a --build-arg that is not NAME=VALUE."""
    from orchestrator.runtimes import BuildOptions

    arguments: dict[str, str] = {}
    for argument in build_args or []:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise UsageError(f"--build-arg {argument}: write it as NAME=VALUE")
        arguments[name] = value
    return BuildOptions(base_image, rebuild, offline, arguments)


def say(message: str) -> None:
    """Print a line for people, on stderr."""
    print_line(message)


def say_text(text: str) -> None:
    """Print a text of several lines for people, on stderr."""
    for line in text.split("\n"):
        print_line(line)


def show_line(line: str) -> None:
    """Print a line of a command's answer, on stdout."""
    print_line(line, on_stdout=True)


def print_json(value: Any) -> None:
    """Print one JSON object for programs, on stdout; in ASCII, which every terminal can encode."""
    print(json.dumps(value, indent=2, default=str), flush=True)


def print_error(error: OrchError, about: str | None = None) -> None:
    """Print what failed, why, where the log is and what to type next; `about` names one of several runs."""
    say(f"error: {about}: {error.message}" if about else f"error: {error.message}")
    if error.why:
        first, *rest = error.why.split("\n")
        say(f"  why:  {first}")
        for line in rest:
            say(f"        {line}")
    if error.log:
        say(f"  log:  {error.log}")
    if error.hint:
        say(f"  next: {error.hint}")
