"""`orch plan`: whether a model runs here, on which device and how, without fetching or building."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.completion import complete_model
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, UsageError
from orchestrator.system import count_of, write_text

if TYPE_CHECKING:
    from orchestrator.catalog import Catalog, ModelEntry
    from orchestrator.hardware import Machine
    from orchestrator.plan import RunOptions
    from orchestrator.workflows import DryRun, RunPreview

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


def show_dry_runs(known: Catalog, names: Sequence[str], options: RunOptions, *, json: bool) -> int:
    """Print what runs of these models, or of all that this machine supports, would do; return the highest exit code."""
    from orchestrator.workflows import find_runnable, preview_images

    entries = [known.model(name) for name in names] if names else find_runnable(known, options)[0]
    previews = [preview_images(entry, options) for entry in entries]
    if json:
        documents = [one.as_json() for one in previews]
        common.print_json(documents[0] if len(names) == 1 else {"runs": documents})
    for one in () if json else previews:
        _show_dry_run(one)
    return max((one.exit_code for one in previews), default=EXIT_OK)


def _show_dry_run(dry: DryRun) -> None:
    unreadable = f", {dry.unreadable} of them cannot be read" if dry.unreadable else ""
    skipped = "".join(f"; {count} skipped: {reason}" for reason, count in sorted(dry.skipped.items()))
    from orchestrator.runtimes import format_size

    images, shards = count_of(dry.images, "image"), count_of(dry.shards, "shard")
    common.say(f"{dry.preview.variants.model}: {images}{unreadable}, in {shards}{skipped}")
    for note in dry.notes:
        common.say(note)
    state = ", which has a run: it is resumed if it is the same" if dry.begun else ""
    common.say(f"run directory {dry.folder}{state}")
    show_sentences(replace(dry.preview, error=None))
    for need in dry.needs:
        common.say(f"disk {need.folder}: {format_size(need.bytes)} for {need.what}")
    if dry.estimate is None:
        common.say("time: not known, this model has not run here before")
    else:
        common.say(f"time: about {dry.estimate:.0f} s to predict, as fast as the newest run of this model here")
    if dry.error is not None:
        common.print_error(dry.error)


def show(preview: RunPreview) -> None:
    """Print a preview as a table and sentences."""
    variants = preview.variants
    rows = [
        [row.variant, row.device, row.name, RUNS[row.runs], row.why + ("; only on request" if row.on_request else "")]
        for row in variants.rows
    ]
    print_table(["variant", "device", "name", "runs", "why"], rows)
    sys.stdout.flush()
    show_sentences(preview)


def show_sentences(preview: RunPreview) -> None:
    """Print what a run would select, fetch and build, or why it would not run."""
    from orchestrator.workflows import name_gpus

    variants = preview.variants
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
