"""The .env beside compose.yaml: who workers run as, where weights are, which images they see; and their spool."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from orchestrator.catalog.loader import Catalog
from orchestrator.errors import UsageError
from orchestrator.runtimes.warm.compose import PROJECT
from orchestrator.runtimes.warm.settings import worker_user
from orchestrator.system.files import write_text

SPOOL_NAME, DATA_NAME = "spool", "data"
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_HEADER = "# Who the workers of compose.yaml run as and what they see. Made by: orch compose --env --out .env\n"


def environment(caller: tuple[int, int], security: tuple[str, ...], home: Path, data: Path | None) -> dict[str, str]:
    """What .env says. A pure value."""
    # In a rootless engine, root inside is the caller outside.
    user, group = (0, 0) if "rootless" in security else worker_user(caller)
    # Whoever shares the engine would otherwise replace each other's workers.
    project = {"COMPOSE_PROJECT_NAME": f"{PROJECT}-{caller[0]}"}
    chosen = {**project, "ORCH_UID": str(user), "ORCH_GID": str(group), "ORCH_HOME": str(home)}
    return chosen if data is None else {**chosen, "ORCH_DATA": str(data)}


def environment_text(values: Mapping[str, str]) -> str:
    """The file's text. Raises UsageError for a value that such a file cannot hold."""
    return _HEADER + "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    if "'" in value or "\n" in value:
        raise UsageError(f"{value!r} cannot be written into a .env file", why="it has a quote or a line break")
    return f"'{value}'"


def others_lines(text: str, values: Mapping[str, str]) -> list[str]:
    """What an earlier file says beyond `values`: a person's own settings."""
    lines = [line for line in text.splitlines() if line.strip() and line != _HEADER.rstrip()]
    return [line for line in lines if line.partition("=")[0].removeprefix("export ").strip() not in values]


def write_environment(path: Path, values: Mapping[str, str], catalog: Catalog) -> None:
    """Write .env, and make the folders that Compose mounts, so that workers can be started at once.

    Variables that an earlier .env has and `values` do not stay as they are.
    """
    kept = [] if not path.exists() else others_lines(path.read_text(encoding="utf-8"), values)
    write_text(path, environment_text(values) + "".join(f"{line}\n" for line in kept))
    give_spool(path.parent / SPOOL_NAME, (int(values["ORCH_UID"]), int(values["ORCH_GID"])))
    if "ORCH_DATA" not in values:
        (path.parent / DATA_NAME).mkdir(exist_ok=True)
    for stack in catalog.stacks:
        (Path(values["ORCH_HOME"]) / "weights" / stack).mkdir(parents=True, exist_ok=True)


def give_folder(folder: Path, user: tuple[int, int]) -> None:
    """Make a folder where it is missing; where root starts workers that are somebody else, it is given to them."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0 and user[0] != 0:
        os.chown(folder, *user)


def give_spool(spool: Path, user: tuple[int, int]) -> None:
    """The same for a spool, whose folders workers of another user may have made."""
    give_folder(spool, user)
    made = [path for pattern in ("*", "tickets/*", "claimed/*") for path in spool.glob(pattern)]
    for path in made:
        if path.is_dir() and not path.is_symlink():
            give_folder(path, user)
