"""`orch selftest`: check that a model works in its real environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import (
    BaseImageOption,
    BuildArgOption,
    DeviceOption,
    JsonOption,
    OfflineOption,
    RuntimeOption,
    SettingsOption,
    StacksOption,
    VariantOption,
    catalog,
    make_build_options,
    print_json,
    say,
)


def selftest(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="See orch models.")],
    runtime: RuntimeOption = "auto",
    variant: VariantOption = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Keep all files in this folder.")
    ] = None,
    settings: SettingsOption = None,
    base_image: BaseImageOption = None,
    build_arg: BuildArgOption = None,
    offline: OfflineOption = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Test a model in its real environment.

    Runs three photographs through it. Weights that are not part of the stack are random: the numbers then mean nothing.
    """
    entry = catalog(stacks).model(model)
    from orchestrator.cli.progress import make_display
    from orchestrator.plan.options import RunOptions
    from orchestrator.workflows.selftest import run_selftest

    build = make_build_options(base_image, build_arg, rebuild=False, offline=offline)
    options = RunOptions(
        images=[], runtime=runtime, variant=variant, device=device, settings=settings or (), build=build
    )
    result = run_selftest(entry, options, out, make_display(json=json, quiet=False))
    if json:
        print_json(result.as_json())
        return
    for file, count in result.instances:
        say(f"  {file}: {count} instances")
    note = "; the weights are random, so the numbers mean nothing" if result.random_weights else ""
    say(f"passed{note}")
