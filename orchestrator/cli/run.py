"""`orch run` and `orch build`."""

from __future__ import annotations

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
from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED, Interrupted, UsageError

if TYPE_CHECKING:
    from orchestrator.run import Outcome
    from orchestrator.runtimes.base import BuildOptions

SHOWN_FAILURES = 20

ModelOption = Annotated[str, typer.Option("--model", "-m", help="The model; see orch models.")]
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
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda; what fits by default.")]
BaseImageOption = Annotated[str | None, typer.Option("--base-image", help="Build on this image instead.")]
BuildArgOption = Annotated[
    list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="For the Dockerfile; repeatable.")
]

SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the model; repeatable.")
]


def run(
    model: ModelOption,
    images: ImagesOption = None,
    more_images: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="More images: --images photos/*.jpg works.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory. Default: runs/MODEL-…")] = None,
    image_root: Annotated[Path | None, typer.Option(help="Folder of the images of a COCO file.")] = None,
    runtime: RuntimeOption = "auto",
    executor: Annotated[str, typer.Option(help="Where workers run.")] = "local",
    variant: VariantOption = None,
    device: DeviceOption = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, max=256, help="Workers side by side.")] = 1,
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
    base_image: BaseImageOption = None,
    build_arg: BuildArgOption = None,
    stacks: StacksOption = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")] = False,
) -> int:
    """Predict images with a model, in an environment of its own. The same command resumes."""
    sources = [*(images or []), *(more_images or [])]
    if not sources:
        raise UsageError("no images were given", hint=f"orch run --model {model} --images FOLDER")
    entry = catalog(stacks).model(model)
    from orchestrator.progress import make_display
    from orchestrator.run import RunOptions
    from orchestrator.run import run as run_model

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
        threads=threads,
        offline=offline,
        build=build_options(base_image, build_arg, rebuild=False, offline=offline),
    )
    try:
        outcome = run_model(entry, options, make_display(json=json, quiet=quiet))
    except Interrupted as stopped:
        raise Interrupted(
            "stopped; what is done is kept", hint="the same command goes on where it stopped"
        ) from stopped
    if json:
        print_json(outcome.summary)
    else:
        _print_outcome(outcome, quiet)
    return EXIT_SOME_FAILED if outcome.failed else EXIT_OK


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
    from orchestrator.hardware import choose_variant, gpus_for
    from orchestrator.progress import make_display
    from orchestrator.runtimes import choose_runtime

    display = make_display(json=json, quiet=False)
    chosen, _ = choose_runtime(runtime)
    # One that is named is built for whatever machine it is meant for, not for this one.
    if variant is None or device is not None:
        variant = choose_variant(stack, variant, device, gpus_for(stack, device)).variant
    options = build_options(base_image, build_arg, rebuild=rebuild, offline=offline)
    prepared = chosen.prepare(stack, variant, options, display.detail)
    written: Path | None = None
    if archive or archive_to is not None:
        from orchestrator.runtimes.docker_build import archived

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
    from orchestrator.progress import make_display
    from orchestrator.run import RunOptions
    from orchestrator.selftest import selftest as test_model

    chosen = build_options(base_image, build_arg, rebuild=False, offline=offline)
    options = RunOptions(
        images=[], runtime=runtime, variant=variant, device=device, settings=settings or (), build=chosen
    )
    result = test_model(entry, options, out, make_display(json=json, quiet=False))
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
