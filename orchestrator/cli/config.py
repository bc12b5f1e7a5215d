"""Settings files: defaults of options, from ~/.config/orch/config.toml and ./orch.toml; and `orch config show`.

A flag wins over the working folder's file, that over the user's own. Only what is harmless in a folder that was cloned
may stand in its file: nothing there names a program to run or a folder of programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.common import JsonOption, print_json
from orchestrator.cli.completion import RUNTIME_NAMES
from orchestrator.cli.panels import PanelGroup
from orchestrator.cli.tables import print_table
from orchestrator.errors import UsageError
from orchestrator.paths import user_settings_file
from orchestrator.system import unknown_name

if TYPE_CHECKING:
    from typer.core import TyperGroup

FOLDER_FILE = Path("orch.toml")

app = typer.Typer(
    cls=PanelGroup, help="Show the settings files and what they set.", no_args_is_help=True, rich_markup_mode=None
)


@dataclass(frozen=True)
class FileSetting:
    """A setting: the option `--name` of all commands that have it."""

    kinds: tuple[type, ...]
    meaning: str
    in_folder: bool = True
    """Whether the working folder's file may have it."""
    is_path: bool = False
    check: Callable[[str], object] | None = None
    """Raises UsageError or ValueError for a value of the right type that its option would refuse."""


def _check_device(value: str) -> object:
    from orchestrator.hardware import device_kind

    return device_kind(value)


def _check_runtime(value: str) -> None:
    if value not in RUNTIME_NAMES:  # not get_runtime, which imports them all
        raise unknown_name("runtime", value, RUNTIME_NAMES)


def _check_executor(value: str) -> object:
    from orchestrator.dispatch import get_executor

    return get_executor(value)


def _check_size(value: str) -> object:
    from orchestrator.runtimes import parse_size

    return parse_size(value)


SETTINGS: Mapping[str, FileSetting] = {
    "device": FileSetting((str, int), "cpu, cuda, GPU numbers or UUIDs", check=_check_device),
    "runtime": FileSetting((str,), "docker, venv, apptainer or auto", check=_check_runtime),
    "executor": FileSetting(
        (str,), "local or slurm; Slurm's own settings: ~/.config/orch/slurm.yaml", check=_check_executor
    ),
    "offline": FileSetting((bool,), "download nothing"),
    "workers": FileSetting((int,), "parallel workers"),
    "workers_per_gpu": FileSetting((int, str), "workers on each GPU, or auto"),
    "threads": FileSetting((int,), "threads per worker"),
    "memory": FileSetting((str,), "most memory of each container", check=_check_size),
    "stacks": FileSetting((list,), "folders with stacks", in_folder=False, is_path=True),
    "spool": FileSetting((str,), "spool folder of the warm workers", in_folder=False, is_path=True),
    "base_image": FileSetting((str,), "base image of all builds", in_folder=False),
}


@dataclass(frozen=True)
class Value:
    """The value of a setting, and the file that it comes from."""

    value: Any
    file: Path


def read_settings() -> dict[str, Value]:
    """Return what the settings files set. Raises UsageError that names the file."""
    return {**_read(user_settings_file(), is_own=True), **_read(FOLDER_FILE, is_own=False)}


def _read(file: Path, *, is_own: bool) -> dict[str, Value]:
    if not file.is_file():
        return {}
    import tomllib

    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read the settings in {file}", why=why, hint=f"correct {file}") from error
    return {name: Value(_check(file, name, value, is_own=is_own), file) for name, value in document.items()}


def _check(file: Path, name: str, value: Any, *, is_own: bool) -> Any:
    """Return the value of a setting as its option takes it. Raises UsageError."""
    setting = SETTINGS.get(name)
    if setting is None:
        raise unknown_name(f"setting in {file}:", name, SETTINGS, hint="orch config show")
    if not setting.in_folder and not is_own:
        why = "a folder that was cloned must not choose what is run on your machine"
        raise UsageError(f"{file}: {name} is not allowed here", why=why, hint=f"write it into {user_settings_file()}")
    values = value if isinstance(value, list) else [value]
    kinds = (str,) if list in setting.kinds else setting.kinds
    if isinstance(value, list) != (list in setting.kinds) or any(type(one) not in kinds for one in values):
        raise UsageError(f"{file}: {name} has the wrong type", why=f"it is {setting.meaning}", hint="orch config show")
    if setting.is_path:
        values = [str(file.parent.absolute() / Path(one).expanduser()) for one in values]
    try:
        if setting.check is not None:
            setting.check(str(value))
    except (UsageError, ValueError) as error:
        why = getattr(error, "why", None) or f"it is {setting.meaning}"
        raise UsageError(f"{file}: {name} = {value!r}: {error}", why=why, hint="orch config show") from None
    return values if isinstance(value, list) else values[0]


def default_values(group: TyperGroup) -> dict[str, Any]:
    """Return the defaults of all commands of a group, in the form that the command line's parser takes."""
    settings = read_settings()
    return _defaults_of(group, {name: one.value for name, one in settings.items()}) if settings else {}


def find_file(context: Any, param: Any) -> Path | None:
    """Return the settings file that the value of a parameter comes from, if any."""
    name = str(getattr(param, "name", ""))
    source = None if context is None or not name else context.get_parameter_source(name)
    return read_settings()[name].file if source is not None and source.name == "DEFAULT_MAP" else None


def _defaults_of(command: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {param.name: values[param.name] for param in command.params if param.name in values}
    children = {name: _defaults_of(child, values) for name, child in getattr(command, "commands", {}).items()}
    return {**defaults, **{name: found for name, found in children.items() if found}}


@app.callback()
def _config() -> None:
    """Show the settings files and what they set."""


@app.command("show")
def show(json: JsonOption = False) -> None:
    """Show every setting, its value and where that comes from; a flag wins over all of them."""
    given = read_settings()
    if json:
        values = {name: {"value": one.value, "file": str(one.file)} for name, one in given.items()}
        print_json({"settings": values, "files": [str(user_settings_file()), str(FOLDER_FILE.absolute())]})
        return
    rows = []
    for name, setting in SETTINGS.items():
        one = given.get(name)
        shown = "" if one is None else ", ".join(map(str, one.value if isinstance(one.value, list) else [one.value]))
        rows.append([name, shown or "-", "default" if one is None else str(one.file), setting.meaning])
    print_table(["setting", "value", "from", "meaning"], rows)
