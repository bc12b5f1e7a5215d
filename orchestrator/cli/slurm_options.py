"""The options of `orch run` that are for --executor slurm, given to a command as one parameter `slurm`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

Command = Callable[..., Any]


def _options(
    partition: Annotated[str | None, typer.Option(help="Slurm: the partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm: whom to charge.")] = None,
    qos: Annotated[str | None, typer.Option(help="Slurm: quality of service.")] = None,
    time: Annotated[str | None, typer.Option(help="Slurm: time limit of a task; it goes on after it.")] = None,
    mem: Annotated[str | None, typer.Option(help="Slurm: memory of a task, 16G.")] = None,
    gres: Annotated[
        str | None, typer.Option(help="Slurm: what a task gets, gpu:a100:1; none. Default: gpu:1 if it uses a GPU.")
    ] = None,
    gpus_per_task: Annotated[int | None, typer.Option(min=1, help="Slurm: instead of --gres; a worker each.")] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="Slurm: cores of a task.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Slurm: features a node must have.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="LINE", help='Slurm: one more option, "--exclusive"; repeatable.')
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Slurm: tasks of the array. Default: 4.")] = None,
    throttle: Annotated[int | None, typer.Option(min=1, help="Slurm: so many tasks at most at a time.")] = None,
) -> None:
    """Declares them; never called."""


def with_slurm_options(command: Command) -> Command:
    """The command with these options in place of its parameter `slurm`, which gets a dict of those that were given."""
    own = inspect.signature(_options, eval_str=True).parameters
    theirs = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def wrapped(**values: Any) -> Any:
        given = {name: value for name in own if (value := values.pop(name)) is not None}
        return command(**values, slurm=given)

    parameters = [*(one for name, one in theirs.items() if name != "slurm"), *own.values()]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped
