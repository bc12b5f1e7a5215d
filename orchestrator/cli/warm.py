"""`orch up`, `orch down`, `orch ps`, `orch logs`: warm workers without Compose."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import (
    BaseImageOption,
    BuildArgOption,
    DeviceOption,
    JsonOption,
    OfflineOption,
    StacksOption,
    VariantOption,
    catalog,
    check_folder,
    find_stacks,
    make_build_options,
    print_json,
    refuse_file,
    say,
    show_line,
)
from orchestrator.cli.completion import complete_stack_or_model
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from orchestrator.runtimes import WarmWorkerStatus

SPOOL_HELP = "Folder shared with workers. Default: $ORCH_SPOOL, else spool in orch's cache."
SpoolOption = Annotated[Path | None, typer.Option("--spool", metavar="DIR", callback=refuse_file, help=SPOOL_HELP)]
_COLUMNS = ["stack", "variant", "state", "models", "device", "memory", "queue", "images", "images/s", "spool", "worker"]


def up(
    names: Annotated[list[str], typer.Argument(metavar="MODEL|STACK...", autocompletion=complete_stack_or_model)],
    variant: VariantOption = None,
    device: DeviceOption = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Images that workers can read; others are staged in the spool."),
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option("--spool", metavar="DIR", callback=check_folder, help=SPOOL_HELP),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, max=64, help="Workers per stack.")] = 1,
    idle: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="Unload models unused for this long. Default: 900."),
    ] = None,
    memory: Annotated[
        int | None, typer.Option(min=1, metavar="MB", help="Memory limit for all models of a worker together.")
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
        raise UsageError(f"{data} is not a folder")
    from orchestrator.cli.progress import make_display
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes import UpOptions, start_workers

    known, display = catalog(stacks), make_display(json=json, quiet=False)
    options = UpOptions(
        spool=(spool or spool_folder()).absolute(),
        is_default_spool=spool is None and "ORCH_SPOOL" not in os.environ,
        variant=variant,
        device=device,
        data=None if data is None else data.resolve(),
        workers=workers,
        idle_seconds=idle,
        memory_mb=memory,
        threads=threads,
        build=make_build_options(base_image, build_arg, rebuild=False, offline=offline),
    )
    serving = []
    for stack in dict.fromkeys(known.stack(name).name for name in names):
        models = [known.model(name) for name in names if name not in known.stacks]
        named = [] if stack in names else [model for model in models if model.stack.name == stack]
        serving += start_workers(known.stacks[stack], named, options, display)
    if json:
        print_json({"workers": [worker.as_json() for worker in serving]})
        return EXIT_OK
    for worker in serving:
        display.say(f"{worker.container} {'serves' if worker.fresh else 'serves already'}; spool {worker.spool}")
    return EXIT_OK


def down(
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL|STACK]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop all workers of this spool.")] = False,
    spool: SpoolOption = None,
    json: JsonOption = False,
) -> None:
    """Stop warm workers that `orch up` started; their unfinished work is kept, and runs resume it."""
    if not names and not everything:
        raise UsageError("name the stacks to stop, or give --all", hint="orch ps")
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes import stop_workers

    folder = (spool or spool_folder()).absolute()
    stopped = stop_workers(_find_stacks(names or [], folder), folder, say)
    if json:
        print_json({"ended": stopped})
        return
    for name in stopped:
        say(f"{name} stopped")
    if not stopped:
        say("no such worker uses this spool; see orch ps")


def _find_stacks(names: list[str], spool: Path) -> list[str]:
    """Return the stacks that names stand for; a stack of workers that are up need not be in the catalog."""
    from orchestrator.runtimes import find_warm_stacks

    return find_stacks(names, catalog(None), find_warm_stacks(spool), "orch ps") if names else []


def ps(spool: SpoolOption = None, json: JsonOption = False) -> None:
    """List warm workers, those of Compose too: state, loaded models, memory, speed."""
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes import list_workers

    workers = list_workers([(spool or spool_folder()).resolve()])
    if json:
        print_json({"workers": [worker.as_json() for worker in workers]})
        return
    print_table(_COLUMNS, [_row(worker) for worker in workers])
    for worker in workers:
        if worker.problem:
            say(f"{worker.name}: {worker.problem}")


def _row(worker: WarmWorkerStatus) -> list[str]:
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
    names: Annotated[list[str] | None, typer.Argument(metavar="[MODEL|STACK]...")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, metavar="LINES", help="Print only the last lines.")
    ] = None,
) -> None:
    """Print the logs of warm workers, those of Compose too."""
    from orchestrator.paths import spool_folder
    from orchestrator.runtimes import list_containers, log_lines

    containers = list_containers(_find_stacks(names or [], spool_folder()))
    if not containers:
        raise UsageError("no such warm worker", hint="orch ps")

    def show_log(container: object, prefix: str) -> None:
        with suppress(BrokenPipeError):  # `orch logs | head`
            for line in log_lines(container, follow=follow, tail=tail):
                show_line(f"{prefix}{line}")

    several = len(containers) > 1
    threads = [
        threading.Thread(target=show_log, args=(container, f"{container.name}  " if several else ""), daemon=True)
        for container in containers
    ]
    with suppress(KeyboardInterrupt):  # how users end --follow
        for thread in threads:
            thread.start()
            if not follow:
                thread.join()
        for thread in threads:
            thread.join()
