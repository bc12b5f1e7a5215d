"""`orch plan`: whether a model runs here, on which device and how, without fetching or building."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.completion import complete_model
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, UsageError
from orchestrator.system import write_text

if TYPE_CHECKING:
    from orchestrator.catalog import ModelEntry
    from orchestrator.hardware import Machine
    from orchestrator.workflows import RunPreview

RUNS = {"native": "yes", "unknown": "perhaps", "jit": "slow first start", "impossible": "no"}
"""The table's word for each value of `How`."""


def plan(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", autocompletion=complete_model)] = None,
    runtime: common.RuntimeOption = "auto",
    variant: common.VariantOption = None,
    device: common.DeviceOption = None,
    machine: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Plan for the machine that this file describes.")
    ] = None,
    save_machine: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            callback=common.check_file,
            help="Describe this machine in a file, for planning elsewhere.",
        ),
    ] = None,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
) -> int:
    """Show on which GPUs each variant of a model runs, and which variant orch run would select."""
    from orchestrator.hardware import detect_machine, read_machine, write_machine

    on = detect_machine() if machine is None else read_machine(machine)
    if save_machine is not None:
        write_text(save_machine, write_machine(on))
        common.say(f"wrote {save_machine}")
        if model is None:
            return EXIT_OK
    if model is None:
        raise UsageError("no model was given", hint="orch plan MODEL; orch models lists them")
    preview = preview_model(
        common.catalog(stacks).model(model), on, runtime if machine is None else None, variant, device
    )
    if json:
        common.print_json(preview.as_json())
    else:
        show(preview)
    return preview.exit_code


def preview_model(
    entry: ModelEntry,
    machine: Machine | None = None,
    runtime: str | None = "auto",
    variant: str | None = None,
    device: str | None = None,
) -> RunPreview:
    """Return what a run would select, fetch and build; `runtime` None: the machine is only described."""
    from orchestrator.hardware import detect_machine
    from orchestrator.workflows import preview_run

    return preview_run(entry, machine or detect_machine(), runtime, variant, device)


def show(preview: RunPreview) -> None:
    """Print a preview as a table and sentences."""
    from orchestrator.workflows import name_gpus

    variants = preview.variants
    rows = [
        [row.variant, row.device, row.name, RUNS[row.runs], row.why + ("; only on request" if row.on_request else "")]
        for row in variants.rows
    ]
    print_table(["variant", "device", "name", "runs", "why"], rows)
    sys.stdout.flush()
    for note in variants.machine.notes:
        common.say(note)
    selection = variants.selection
    if preview.error is not None:
        common.print_error(preview.error)
    elif selection is not None:
        on_cpu = selection.device == "cpu"
        on = "the CPU" if on_cpu else f"GPU {', '.join(name_gpus(variants.machine.gpus, selection.devices))}"
        common.say(f"orch run selects the variant {selection.variant} on {on}: {selection.why}")
    for weights in preview.downloads:
        common.say(f"weights {weights.text()}")
    if preview.runtime is not None:
        environment = preview.environment
        state = "" if environment is None else f": {environment.location}, "
        state += "" if environment is None else "built" if environment.built else "to be built"
        common.say(f"runtime {preview.runtime} ({preview.why_runtime}){state}")
    if preview.workers is not None:
        common.say(f"workers {preview.workers.describe()}")
