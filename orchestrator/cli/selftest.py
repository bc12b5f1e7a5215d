"""`orch selftest` and `orch test-stack`: check that a model, or all models of a stack, work in their environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import common
from orchestrator.cli.completion import complete_model, complete_runtime, complete_stack_or_model
from orchestrator.cli.tables import print_table
from orchestrator.errors import EXIT_OK, MachineError, PredictionsError
from orchestrator.system import count_of


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
        common.say(f"  {file}: {count_of(count, 'instance')}")
    note = "; the weights are random, so the numbers mean nothing" if result.random_weights else ""
    common.say(f"passed{note}")


def check_stack(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", autocompletion=complete_stack_or_model, help="A stack, or one of its models."),
    ],
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            autocompletion=complete_runtime,
            help="Test on this runtime; repeatable. Default: docker and venv.",
        ),
    ] = None,
    variant: common.VariantOption = None,
    device: common.DeviceOption = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", callback=common.check_folder, help="Folder of its runs."),
    ] = Path("orch-test-stack"),
    offline: common.OfflineOption = False,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
) -> int:
    """Hold a stack to what the built-in ones are held to.

    Difficult images, the same bytes whatever the workers, equal arrays on every runtime. Missing weights are replaced
    by random ones.
    """
    known = common.catalog(stacks)
    entries = [known.model(name)] if name not in known.stacks else None
    if entries is None:
        entries = [entry for entry in known.models.values() if entry.stack.name == name]
    from orchestrator.cli.progress import make_display
    from orchestrator.plan import RunOptions
    from orchestrator.runtimes import AUTO_ORDER, get_runtime, usable_runtimes
    from orchestrator.workflows import check_models

    named = [get_runtime(one).name for one in runtimes or ()]
    chosen = named or [runtime.name for runtime in usable_runtimes() if runtime.name in AUTO_ORDER]
    if not chosen:
        raise MachineError("cannot use any runtime here", hint="orch doctor")
    build = common.make_build_options(None, None, rebuild=False, offline=offline)
    options = RunOptions(images=[], variant=variant, device=device, build=build, offline=offline)
    checks = check_models(entries, chosen, options, out, make_display(json=json, quiet=False))
    failed = [check for check in checks if check.problem is not None]
    if json:
        common.print_json({"passed": not failed, "checks": [check.as_json() for check in checks]})
        return PredictionsError.exit_code if failed else EXIT_OK
    columns = ["model", "runtime", "requirement", ""]
    print_table(columns, [[one.model, one.runtime, one.what, one.problem or "ok"] for one in checks])
    if failed:
        raise PredictionsError(
            f"{len(failed)} of {len(checks)} requirements do not hold", hint=f"see the runs in {out}"
        )
    common.say(f"all {len(checks)} requirements hold")
    return EXIT_OK
