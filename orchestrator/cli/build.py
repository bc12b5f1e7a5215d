"""`orch build`: build a stack's image or environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.completion import complete_stack_or_model


def build(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|STACK", autocompletion=complete_stack_or_model, help="A stack, or a model of it."
        ),
    ],
    variant: common.VariantOption = None,
    runtime: common.RuntimeOption = "auto",
    device: common.DeviceOption = None,
    base_image: common.BaseImageOption = None,
    build_arg: common.BuildArgOption = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build again even if nothing changed.")] = False,
    archive: Annotated[
        bool, typer.Option("--archive", help="Also write the image to a file, for machines without a registry.")
    ] = False,
    archive_to: Annotated[
        Path | None,
        typer.Option(
            "--archive-to",
            metavar="DIR",
            callback=common.check_folder,
            help="Folder of that file; implies --archive.",
        ),
    ] = None,
    offline: common.OfflineOption = False,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
) -> None:
    """Build a stack's image or environment.

    Does nothing if it is up to date.
    """
    stack = common.catalog(stacks).stack(name)
    from orchestrator.cli.progress import make_display
    from orchestrator.plan import build_needs
    from orchestrator.runtimes import choose_runtime, select_variant
    from orchestrator.system import require_space

    display = make_display(json=json, quiet=False)
    chosen, _ = choose_runtime(runtime)
    # A variant that is named may be for another machine: it is not checked against this one.
    if variant is None or device is not None:
        variant = select_variant(stack, variant, device).variant
    options = common.make_build_options(base_image, build_arg, rebuild=rebuild, offline=offline)
    require_space([*build_needs(stack, variant, chosen, options)], f"building {stack.name}")
    prepared = chosen.prepare(stack, variant, options, display.detail)
    written: Path | None = None
    if archive or archive_to is not None:
        written = chosen.archive(prepared, options, display.detail, archive_to)
    if json:
        document = {
            "stack": stack.name,
            "variant": variant,
            "runtime": chosen.name,
            "identity": prepared.identity,
            "location": prepared.location,
            "built": prepared.fresh,
            "seconds": round(prepared.seconds, 3),
        }
        common.print_json({**({} if written is None else {"archive": str(written)}), **document})
        return
    if prepared.fresh:
        display.say(f"built {prepared.location} in {prepared.seconds:.1f} s")
    else:
        display.say(f"nothing to do: {prepared.location} is up to date")
    if written is not None:
        display.say(f"archive: {written} ({written.stat().st_size / 1e6:.0f} MB)")
