"""`orch compose`: write the files with which Compose starts warm workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import StacksOption, catalog, check_file, say
from orchestrator.cli.tables import write_or_print
from orchestrator.errors import MachineError, UsageError


def compose(
    gpu: Annotated[bool, typer.Option("--gpu", help="Write compose.gpu.yaml: what a GPU changes.")] = False,
    env: Annotated[bool, typer.Option("--env", help="Write .env: the workers' user, weights and images.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --env: folder of images that workers can read.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", callback=check_file, help="Write to this file instead of stdout."),
    ] = None,
    stacks: StacksOption = None,
) -> None:
    """Write compose.yaml: a warm worker for each stack, started with `docker compose up`."""
    if gpu and env:
        raise UsageError("--gpu and --env write two different files", hint="orch compose --env --out .env")
    if data is not None and not env:
        raise UsageError("--data needs --env", hint=f"orch compose --env --data {data} --out .env")
    if data is not None and not data.is_dir():
        raise UsageError(f"{data} is not a folder")
    if env:
        _write_env(data, out, stacks)
        return
    from orchestrator.runtimes import compose_text, gpu_text

    root = (out.parent if out is not None else Path()).resolve()
    text = (gpu_text if gpu else compose_text)(catalog(stacks), root)
    write_or_print(text, out)


def _write_env(data: Path | None, out: Path | None, stacks: list[Path] | None) -> None:
    from orchestrator.paths import home
    from orchestrator.runtimes import calling_user, environment, environment_text, write_environment

    values = environment(calling_user(), _security(), home(), None if data is None else data.resolve())
    if out is None:
        write_or_print(environment_text(values), None)
        return
    write_environment(out, values, catalog(stacks))
    say(f"wrote {out}: workers run as {values['ORCH_UID']}:{values['ORCH_GID']}")
    if not any((out.parent / name).is_file() for name in ("compose.yaml", "docker-compose.yml")):
        say(f"  next: orch compose --out {out.parent / 'compose.yaml'}")
    say("  next: docker compose up -d --build --wait")


def _security() -> tuple[str, ...]:
    """Return the engine's security options; none if no engine answers: .env may be for another host."""
    from orchestrator.system import connect

    try:
        return connect().security
    except MachineError:
        return ()
