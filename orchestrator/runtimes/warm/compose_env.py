"""Write the .env beside compose.yaml (the workers' user, weights and images), and make the workers' folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.catalog import Catalog
from orchestrator.errors import UsageError
from orchestrator.runtimes.docker.user import worker_user
from orchestrator.runtimes.warm.compose import PROJECT, service_variants
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder, worker_group
from orchestrator.system import write_text

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

    Variables of an earlier .env that are not in `values` stay as they are. Raises UnusableSpool, OSError.
    """
    kept = [] if not path.exists() else other_lines(path.read_text(encoding="utf-8"), values)
    chosen = os.environ.get("ORCH_SPOOL") or _value_in(kept, "ORCH_SPOOL")
    spool = path.parent / (chosen or SPOOL_NAME)
    user = (int(values["ORCH_UID"]), int(values["ORCH_GID"]))
    for stack, variant in service_variants(catalog):
        make_variant_folder(VariantSpool(spool.absolute(), stack, variant), user, is_default=chosen is None)
    if user[0] != 0:
        values = {**values, "ORCH_GID": str(worker_group(spool, user[1]))}
    write_text(path, environment_text(values) + "".join(f"{line}\n" for line in kept))
    if "ORCH_DATA" not in values:
        (path.parent / DATA_NAME).mkdir(exist_ok=True)
    for name in catalog.stacks:
        (Path(values["ORCH_HOME"]) / "weights" / name).mkdir(parents=True, exist_ok=True)


def _value_in(lines: Sequence[str], variable: str) -> str | None:
    """Return a variable's value in the lines of a .env file; None where it has none."""
    values = [line.removeprefix("export ").partition("=")[2] for line in lines if variable in line.partition("=")[0]]
    return values[-1].strip("'\" ") or None if values else None
