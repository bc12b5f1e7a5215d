"""`orch run` and `orch build`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import (
    JsonOption,
    OfflineOption,
    RuntimeOption,
    StacksOption,
    VariantOption,
    catalog,
    print_json,
    say,
)
from orchestrator.cli.gate import BaselineOption, FailOnOption, JunitOption, SummaryOption, open_gate, say_verdicts
from orchestrator.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from orchestrator.dispatch.outcome import Outcome
    from orchestrator.dispatch.slurm.settings import SlurmOptions
    from orchestrator.evaluation.gate.gate import GateResult
    from orchestrator.runtimes.base import BuildOptions

SHOWN_FAILURES = 20
GOES_ON = "the same command goes on where it stopped"

ModelsOption = Annotated[
    list[str] | None, typer.Option("--model", "-m", metavar="MODEL", help="See orch models; repeatable: all at once.")
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--images",
        "-i",
        metavar="SOURCE",
        help="Folder, image, glob, .txt list, .zip or .tar archive, COCO .json, or a data set of "
        "manipulation localization (Tp/ and Gt/, or its .json); repeatable.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, GPUs by number (0,1) or UUID (GPU-…, MIG-…). Default: what fits."),
]
BaseImageOption = Annotated[str | None, typer.Option("--base-image", help="Build on this image instead.")]
BuildArgOption = Annotated[
    list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="For the Dockerfile; repeatable.")
]

WarmOption = Annotated[
    bool | None,
    typer.Option("--warm/--no-warm", help="Warm workers alone, or none. Default: where fitting ones are up."),
]
SpoolOption = Annotated[
    Path | None, typer.Option("--spool", metavar="DIR", help="The warm workers' spool. Default: $ORCH_SPOOL, or found.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]

SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the model; repeatable.")
]


def run(
    context: typer.Context,
    model: ModelsOption = None,
    images: ImagesOption = None,
    more_images: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="More images: --images photos/*.jpg works.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run directory, or the folder of several. Default: runs/MODEL-…"),
    ] = None,
    image_root: Annotated[Path | None, typer.Option(help="Folder of the images of a COCO file.")] = None,
    runtime: RuntimeOption = "auto",
    executor: Annotated[str, typer.Option(help="Where workers run: local, or slurm.")] = "local",
    variant: VariantOption = None,
    device: DeviceOption = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", min=1, max=256, help="Side by side. Default: one; on GPUs one on each."),
    ] = None,
    workers_per_gpu: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Workers on each GPU; auto: as many as fit its memory."),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="For a GPU that other runs use; with --executor slurm until the run is complete.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per worker. Default: cores / workers.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch.")] = None,
    shard_size: Annotated[int | None, typer.Option(min=1, max=100_000, help="Images per shard.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score floor. Default: as published.")
    ] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="Most instances per image.")] = None,
    exif: Annotated[str, typer.Option(help="apply or ignore the EXIF orientation.")] = "apply",
    settings: SettingsOption = None,
    offline: OfflineOption = False,
    warm: WarmOption = None,
    spool: SpoolOption = None,
    base_image: BaseImageOption = None,
    build_arg: BuildArgOption = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", "-a", metavar="COCO.json", help="The truth, for AP and --baseline.")
    ] = None,
    baseline: BaselineOption = None,
    fail_on: FailOnOption = None,
    junit: JunitOption = None,
    job_summary: SummaryOption = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    all_models: Annotated[bool, typer.Option("--all", help="All models that can run here as it is.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="ORCH.yaml", help="A whole comparison: orch new comparison."),
    ] = None,
    slurm: dict[str, Any] | None = None,
) -> int:
    """Predict images with models, each in an environment of its own. The same command resumes."""
    from orchestrator.cli import batch as several

    checked_by = partial(
        open_gate, fail_on=fail_on, baseline=baseline, annotations=annotations, junit=junit, summary=job_summary
    )
    if file is not None:
        return several.run_file(context, file, stacks, checked_by, json=json, quiet=quiet)
    sources = [*(images or []), *(more_images or [])]
    several.refuse_incomplete(model or [], sources, all_models)
    from orchestrator.cli.progress import make_display
    from orchestrator.plan.options import RunOptions
    from orchestrator.workflows.run import run_model

    options = RunOptions(
        images=sources,
        out=out,
        image_root=image_root,
        runtime=runtime,
        executor=executor,
        variant=variant,
        device=device,
        exif=exif,
        score_threshold=score_threshold,
        max_detections=max_detections,
        batch_size=batch_size,
        settings=settings or (),
        shard_size=shard_size,
        workers=workers,
        workers_per_gpu=several.per_gpu(workers_per_gpu),
        wait=wait,
        threads=threads,
        offline=offline,
        warm=warm,
        spool=spool,
        slurm=_slurm_options(executor, slurm or {}, wait=wait),
        build=build_options(base_image, build_arg, rebuild=False, offline=offline),
    )
    if all_models or len(model or []) > 1:
        wanted = several.Wanted(model or [], all_models, json, quiet)
        return several.run_models(catalog(stacks), wanted, options, checked_by)
    entry = catalog(stacks).model((model or [""])[0])
    with checked_by([entry.name]) as checks:
        outcome = _interruptible(partial(run_model, entry, options, make_display(json=json, quiet=quiet)))
        checked = checks.judge(entry.name, outcome.summary) if outcome.complete else None
    report_outcome(outcome, checked, json=json, quiet=quiet)
    return checks.exit_code


def _interruptible(action: Callable[[], Outcome]) -> Outcome:
    try:
        return action()
    except Interrupted as stopped:
        if stopped.hint:
            raise
        raise Interrupted("stopped; what is done is kept", hint=GOES_ON) from stopped


def _slurm_options(executor: str, given: dict[str, Any], *, wait: bool) -> SlurmOptions:
    from orchestrator.dispatch.slurm.settings import SlurmOptions, slurm_options
    from orchestrator.paths import user_slurm_options

    if executor == "slurm":
        return slurm_options(user_slurm_options(), {**given, "wait": None if wait else False})
    if given:
        first = next(iter(given)).replace("_", "-")
        raise UsageError(f"--{first} is for --executor slurm")
    return SlurmOptions()


def report_outcome(outcome: Outcome, checked: GateResult | None, *, json: bool, quiet: bool) -> None:
    """Print what a run came to, and what was checked of it."""
    if not outcome.complete:
        if json:
            print_json({"run": str(outcome.paths.root), "state": "submitted"})
        elif not quiet:
            say(f"it goes on by itself; next: orch attach {outcome.paths.root}")
    elif json:
        print_json({**outcome.summary, **(checked.as_json() if checked else {})})
    else:
        _print_outcome(outcome, quiet)
        if checked:
            say_verdicts(checked, quiet=quiet)


def _print_outcome(outcome: Outcome, quiet: bool) -> None:
    summary: dict[str, Any] = outcome.summary
    for failure in summary["failures"][:SHOWN_FAILURES]:
        say(f"  failed: {failure['image_file']}: {failure['error']}")
    if len(summary["failures"]) > SHOWN_FAILURES:
        say(f"  … and {len(summary['failures']) - SHOWN_FAILURES} more, all in {outcome.paths.summary}")
    if quiet:
        return
    seconds = summary["seconds"]["dispatch"]
    failed = f", {summary['failed']} failed" if summary["failed"] else ""
    say(f"{summary['predicted']} images predicted{failed}; {summary['instances']} instances; {seconds:.1f} s")
    say(f"predictions: {outcome.paths.predictions}")


def build(
    name: Annotated[str, typer.Argument(metavar="MODEL|STACK")],
    variant: VariantOption = None,
    runtime: RuntimeOption = "auto",
    device: DeviceOption = None,
    base_image: BaseImageOption = None,
    build_arg: BuildArgOption = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Even if nothing changed.")] = False,
    archive: Annotated[
        bool, typer.Option("--archive", help="Also write the image as a file, for machines without a registry.")
    ] = False,
    archive_to: Annotated[
        Path | None, typer.Option("--archive-to", metavar="DIR", help="Where to; implies --archive.")
    ] = None,
    offline: OfflineOption = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Build a stack's image or environment; nothing happens if nothing changed."""
    stack = catalog(stacks).stack(name)
    from orchestrator.cli.progress import make_display
    from orchestrator.hardware import choose_variant, gpus_for
    from orchestrator.plan.disk_space import build_needs, require_space
    from orchestrator.runtimes.base import choose_runtime

    display = make_display(json=json, quiet=False)
    chosen, _ = choose_runtime(runtime)
    # One that is named is built for whatever machine it is meant for, not for this one.
    if variant is None or device is not None:
        variant = choose_variant(stack, variant, device, gpus_for(stack, device, variant)).variant
    options = build_options(base_image, build_arg, rebuild=rebuild, offline=offline)
    require_space([*build_needs(stack, variant, chosen, options)], f"building {stack.name}")
    prepared = chosen.prepare(stack, variant, options, display.detail)
    written: Path | None = None
    if archive or archive_to is not None:
        from orchestrator.runtimes.docker.archive import archived

        written = archived(prepared, options, display.detail, archive_to)
    if json:
        print_json(
            {
                **({} if written is None else {"archive": str(written)}),
                "stack": stack.name,
                "variant": variant,
                "runtime": chosen.name,
                "identity": prepared.identity,
                "location": prepared.location,
                "built": prepared.fresh,
                "seconds": round(prepared.seconds, 3),
            }
        )
        return
    display.say(
        f"built {prepared.location} in {prepared.seconds:.1f} s"
        if prepared.fresh
        else f"nothing to do: {prepared.location} is up to date"
    )
    if written is not None:
        display.say(f"archive: {written} ({written.stat().st_size / 1e6:.0f} MB)")


def selftest(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    runtime: RuntimeOption = "auto",
    variant: VariantOption = None,
    device: DeviceOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep everything in this folder.")] = None,
    settings: SettingsOption = None,
    base_image: BaseImageOption = None,
    build_arg: BuildArgOption = None,
    offline: OfflineOption = False,
    stacks: StacksOption = None,
    json: JsonOption = False,
) -> None:
    """Run three photographs through a model's real environment, with random weights where its own are not public."""
    entry = catalog(stacks).model(model)
    from orchestrator.cli.progress import make_display
    from orchestrator.plan.options import RunOptions
    from orchestrator.workflows.selftest import run_selftest

    chosen = build_options(base_image, build_arg, rebuild=False, offline=offline)
    options = RunOptions(
        images=[], runtime=runtime, variant=variant, device=device, settings=settings or (), build=chosen
    )
    result = run_selftest(entry, options, out, make_display(json=json, quiet=False))
    if json:
        print_json(result.as_json())
        return
    for file, count in result.instances:
        say(f"  {file}: {count} instances")
    meaning = "; the weights are random: the numbers mean nothing" if result.random_weights else ""
    say(f"passed{meaning}")


def build_options(
    base_image: str | None, build_args: list[str] | None, *, rebuild: bool, offline: bool
) -> BuildOptions:
    from orchestrator.runtimes.base import BuildOptions

    arguments: dict[str, str] = {}
    for argument in build_args or []:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise UsageError(f"--build-arg {argument}: write it as NAME=VALUE")
        arguments[name] = value
    return BuildOptions(base_image, rebuild, offline, arguments)
