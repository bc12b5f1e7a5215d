"""`orch up`, `orch down`, `orch ps`, `orch logs`: warm workers without Compose."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import (
    JsonOption,
    OfflineOption,
    StacksOption,
    VariantOption,
    catalog,
    print_json,
    say,
)
from orchestrator.cli.run import BaseImageOption, BuildArgOption, DeviceOption, build_options
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from orchestrator.runtimes.warm.listing import Shown

SpoolOption = Annotated[
    Path | None,
    typer.Option("--spool", metavar="DIR", help="The spool. Default: $ORCH_SPOOL, else spool in orch's cache."),
]
_COLUMNS = ["stack", "variant", "state", "models", "device", "memory", "queue", "images", "images/s", "spool", "worker"]


def up(
    names: Annotated[list[str], typer.Argument(metavar="MODEL|STACK...")],
    variant: VariantOption = None,
    device: DeviceOption = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of images that workers see; others are handed over by the spool."),
    ] = None,
    spool: SpoolOption = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, max=64, help="Workers of each stack.")] = 1,
    idle: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="Unload models unused for so long. Default: 900.")
    ] = None,
    memory: Annotated[
        int | None, typer.Option(min=1, metavar="MB", help="For all models of a worker together.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per worker. Default: as each run asks.")] = None,
    offline: OfflineOption = False,
    base_image: BaseImageOption = None,
    build_arg: BuildArgOption = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> int:
    """Start warm workers that keep models loaded; `orch run` then uses them."""
    if data is not None and not data.is_dir():
        raise UsageError(f"there is no folder {data}")
    from orchestrator.cli.progress import make_display
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes.warm.containers import UpOptions
    from orchestrator.runtimes.warm.containers import up as start

    known, display = catalog(stacks), make_display(json=json, quiet=False)
    options = UpOptions(
        spool=(spool or spool_folder()).resolve(),
        variant=variant,
        device=device,
        data=None if data is None else data.resolve(),
        workers=workers,
        idle_seconds=idle,
        memory_mb=memory,
        threads=threads,
        build=build_options(base_image, build_arg, rebuild=False, offline=offline),
    )
    started = []
    for stack in dict.fromkeys(known.stack(name).name for name in names):
        models = [known.model(name) for name in names if name not in known.stacks]
        named = [] if stack in names else [model for model in models if model.stack.name == stack]
        started += start(known.stacks[stack], named, options, display)
    if json:
        print_json({"workers": [one.as_json() for one in started]})
        return EXIT_OK
    for one in started:
        display.say(f"{one.container} {'serves' if one.fresh else 'serves already'}; spool {one.spool}")
    return EXIT_OK


def down(
    names: Annotated[list[str] | None, typer.Argument(metavar="[STACK]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that serve from this spool.")] = False,
    spool: SpoolOption = None,
    json: JsonOption = False,
) -> None:
    """End warm workers that `orch up` started; what they were working on is kept for whoever goes on with it."""
    if not names and not everything:
        raise UsageError("say which stacks, or --all", hint="orch ps")
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes.warm.containers import down as end

    ended = end(names or [], (spool or spool_folder()).resolve(), say)
    if json:
        print_json({"ended": ended})
        return
    for name in ended:
        say(f"{name} ended")
    if not ended:
        say("none of them serves from this spool; see orch ps")


def ps(spool: SpoolOption = None, json: JsonOption = False) -> None:
    """List warm workers, Compose's too: what they have loaded, what they do, how fast."""
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes.warm.listing import list_workers

    workers = list_workers([(spool or spool_folder()).resolve()])
    if json:
        print_json({"workers": [worker.as_json() for worker in workers]})
        return
    print_table(_COLUMNS, [_row(worker) for worker in workers])
    for worker in workers:
        if worker.problem:
            say(f"{worker.name}: {worker.problem}")


def _row(worker: Shown) -> list[str]:
    memory = "" if worker.memory_mb is None else f"{worker.memory_mb:.0f} MB"
    if worker.gpu_mb is not None:
        memory += f" + {worker.gpu_mb:.0f} MB GPU"
    return [
        worker.stack,
        worker.variant,
        worker.state,
        ", ".join(worker.models),
        worker.device or "",
        memory,
        "" if worker.queue is None else str(worker.queue),
        "" if worker.images is None else str(worker.images),
        "" if worker.images_per_s is None else f"{worker.images_per_s:.1f}",
        worker.spool or "",
        worker.name,
    ]


def logs(
    names: Annotated[list[str] | None, typer.Argument(metavar="[STACK]...")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they write.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, metavar="LINES", help="The last lines alone.")
    ] = None,
) -> None:
    """Show what warm workers say, Compose's too."""
    from orchestrator.runtimes.warm.containers import log_lines, warm_containers

    containers = warm_containers(names or [])
    if not containers:
        raise UsageError("there is no such warm worker", hint="orch ps")

    def show(container: object, prefix: str) -> None:
        with suppress(BrokenPipeError):  # `orch logs | head`
            for line in log_lines(container, follow=follow, tail=tail):
                print(f"{prefix}{line}", flush=True)

    several = len(containers) > 1
    threads = [
        threading.Thread(target=show, args=(one, f"{one.name}  " if several else ""), daemon=True) for one in containers
    ]
    with suppress(KeyboardInterrupt):  # the way to end it
        for thread in threads:
            thread.start()
            if not follow:
                thread.join()
        for thread in threads:
            thread.join()
