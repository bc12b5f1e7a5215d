"""`orch plan`: will it run here, on what, and how; before anything is downloaded or built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import (
    JsonOption,
    RuntimeOption,
    StacksOption,
    VariantOption,
    catalog,
    print_error,
    print_json,
    say,
)
from orchestrator.cli.run import DeviceOption
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from orchestrator.catalog.loader import ModelEntry
    from orchestrator.hardware import Machine
    from orchestrator.workflows.preview import Prospect

RUNS = {"native": "yes", "unknown": "perhaps", "jit": "slow first start", "impossible": "no"}
"""What the table says of each way of running."""


def plan(
    model: Annotated[str | None, typer.Argument(metavar="MODEL")] = None,
    runtime: RuntimeOption = "auto",
    variant: VariantOption = None,
    device: DeviceOption = None,
    machine: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Plan for the machine that this file describes.")
    ] = None,
    save_machine: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Describe this machine in a file, for planning elsewhere.")
    ] = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> int:
    """Say on which GPUs which variants of a model run, natively or not, and what orch run would choose."""
    from orchestrator.hardware import look, read_machine, write_machine

    found = look() if machine is None else read_machine(machine)
    if save_machine is not None:
        save_machine.write_text(write_machine(found), encoding="utf-8")
        say(f"wrote {save_machine}")
        if model is None:
            return EXIT_OK
    if model is None:
        raise UsageError("no model was given", hint="orch plan MODEL; orch models lists them")
    prospect = prospect_of(catalog(stacks).model(model), found, runtime, variant, device, here=machine is None)
    if json:
        print_json(prospect.as_json())
    else:
        show(prospect)
    return prospect.exit_code


def prospect_of(
    entry: ModelEntry,
    machine: Machine | None = None,
    runtime: str = "auto",
    variant: str | None = None,
    device: str | None = None,
    *,
    here: bool = True,
) -> Prospect:
    """What a model would run on, and what a run would fetch and build; `here`: the machine is this one."""
    from dataclasses import replace

    from orchestrator.hardware import look
    from orchestrator.hardware.gpu_code import as_built
    from orchestrator.workflows.preview import outlook, prospect

    entry = replace(entry, stack=as_built(entry.stack))
    return prospect(entry, outlook(entry, machine or look(), variant, device), runtime if here else None)


def show(prospect: Prospect) -> None:
    """Print it for people."""
    from orchestrator.workflows.preview import gpu_names

    ahead = prospect.outlook
    rows = [
        [row.variant, row.device, row.name, RUNS[row.runs], row.why + ("; on request alone" if row.on_request else "")]
        for row in ahead.rows
    ]
    print_table(["variant", "device", "name", "runs", "why"], rows)
    sys.stdout.flush()
    for note in ahead.machine.notes:
        say(note)
    if prospect.error is not None:
        print_error(prospect.error)
    elif ahead.choice is not None:
        on_cpu = ahead.choice.device == "cpu"
        on = "the CPU" if on_cpu else f"GPU {', '.join(gpu_names(ahead.machine.gpus, ahead.choice.devices))}"
        say(f"orch run takes the variant {ahead.choice.variant} on {on}: {ahead.choice.why}")
    for one in prospect.downloads:
        say(f"weights {one.text()}")
    if prospect.runtime is not None:
        built = prospect.environment
        state = "" if built is None else f": {built.location}, {'built' if built.built else 'to be built'}"
        say(f"runtime {prospect.runtime} ({prospect.why_runtime}){state}")
