"""`orch selftest`: check that a model works in its real environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.completion import complete_model


def selftest(
    model: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="See orch models.")],
    runtime: common.RuntimeOption = "auto",
    variant: common.VariantOption = None,
    device: common.DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", callback=common.check_folder, help="Keep all files in this folder."),
    ] = None,
    settings: common.SettingsOption = None,
    base_image: common.BaseImageOption = None,
    build_arg: common.BuildArgOption = None,
    offline: common.OfflineOption = False,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
) -> None:
    """Test a model in its real environment.

    Runs three photographs through it. Weights that are not part of the stack are random: the numbers then mean nothing.
    """
    entry = common.catalog(stacks).model(model)
    from orchestrator.cli.progress import make_display
    from orchestrator.plan import RunOptions
    from orchestrator.workflows import run_selftest

    build = common.make_build_options(base_image, build_arg, rebuild=False, offline=offline)
    options = RunOptions(
        images=[], runtime=runtime, variant=variant, device=device, settings=settings or (), build=build
    )
    result = run_selftest(entry, options, out, make_display(json=json, quiet=False))
    if json:
        common.print_json(result.as_json())
        return
    for file, count in result.instances:
        common.say(f"  {file}: {count} instances")
    note = "; the weights are random, so the numbers mean nothing" if result.random_weights else ""
    common.say(f"passed{note}")
