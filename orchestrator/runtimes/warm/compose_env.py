"""Write the .env beside compose.yaml (the workers' user, weights and images), and make the workers' folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator.catalog.loader import Catalog
from orchestrator.errors import UsageError
from orchestrator.runtimes.docker.user import worker_user
from orchestrator.runtimes.warm.compose import PROJECT
from orchestrator.system.files import write_text

SPOOL_NAME, DATA_NAME = "spool", "data"
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_MADE_BY = "Made by: orch compose --env --out .env"
_HEADER = f"# The user and the folders of the workers in compose.yaml. {_MADE_BY}\n"


def environment(caller: tuple[int, int], security: tuple[str, ...], home: Path, data: Path | None) -> dict[str, str]:
    """Return the variables of .env. A pure value."""
    # In a rootless engine, root in the container is the caller on the host.
    user, group = (0, 0) if "rootless" in security else worker_user(caller)
    # Users who share an engine would otherwise replace each other's workers.
    project = {"COMPOSE_PROJECT_NAME": f"{PROJECT}-{caller[0]}"}
    chosen = {**project, "ORCH_UID": str(user), "ORCH_GID": str(group), "ORCH_HOME": str(home)}
    return chosen if data is None else {**chosen, "ORCH_DATA": str(data)}


def environment_text(values: Mapping[str, str]) -> str:
    """Return the file's text. Raises UsageError for a value that such a file cannot hold."""
    return _HEADER + "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    if "'" in value or "\n" in value:
        raise UsageError(f"{value!r} cannot be written into a .env file", why="it contains a quote or a line break")
    return f"'{value}'"


def other_lines(text: str, values: Mapping[str, str]) -> list[str]:
    """Return the lines of an earlier file that set none of `values`: the user's own settings."""
    lines = [line for line in text.splitlines() if line.strip() and not line.endswith(_MADE_BY)]
    return [line for line in lines if line.partition("=")[0].removeprefix("export ").strip() not in values]


def write_environment(path: Path, values: Mapping[str, str], catalog: Catalog) -> None:
    """Write .env, and make the folders that Compose mounts, so that workers can be started at once.

    Variables of an earlier .env that are not in `values` stay as they are.
    """
    kept = [] if not path.exists() else other_lines(path.read_text(encoding="utf-8"), values)
    write_text(path, environment_text(values) + "".join(f"{line}\n" for line in kept))
    make_spool(path.parent / SPOOL_NAME, (int(values["ORCH_UID"]), int(values["ORCH_GID"])))
    if "ORCH_DATA" not in values:
        (path.parent / DATA_NAME).mkdir(exist_ok=True)
    for stack in catalog.stacks:
        (Path(values["ORCH_HOME"]) / "weights" / stack).mkdir(parents=True, exist_ok=True)


def make_folder_for(folder: Path, user: tuple[int, int]) -> None:
    """Make a folder if it is missing; where root starts workers of another user, give it to that user."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0 and user[0] != 0:
        os.chown(folder, *user)


def make_spool(spool: Path, user: tuple[int, int]) -> None:
    """Make a spool for `user`, and give it the folders that earlier workers of another user made in it."""
    make_folder_for(spool, user)
    made = [path for pattern in ("*", "tickets/*", "claimed/*") for path in spool.glob(pattern)]
    for path in made:
        if path.is_dir() and not path.is_symlink():
            make_folder_for(path, user)
