"""`orch run`: predict images with models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from orchestrator.cli import batch, common
from orchestrator.cli.completion import complete_model, complete_model_or_path
from orchestrator.cli.gate import BaselineOption, FailOnOption, JunitOption, SummaryOption, open_gate, say_verdicts
from orchestrator.cli.panels import PanelCommand
from orchestrator.cli.plan import show_dry_runs
from orchestrator.errors import Interrupted, UsageError
from orchestrator.system import count_of

if TYPE_CHECKING:
    from orchestrator.dispatch import Outcome
    from orchestrator.evaluation import GateResult
    from orchestrator.plan import RunOptions

SHOWN_FAILURES = 20
RESUME_HINT = "the same command resumes it"
EXAMPLES = """\b
Examples:
  orch run --model fformer-swin --images photos/
  orch run -m facere -m fformer-swin -i photos/ -a truth.json --out result
"""

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=complete_model,
        help="Model to run, see orch models; repeatable.",
    ),
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--images",
        "-i",
        metavar="SOURCE",
        help="Images: a folder, image, glob, .txt list, .zip or .tar archive, http(s) address, COCO .json, - for names "
        "from standard input, or a data set for manipulation localization (Tp/ and Gt/, or its .json); repeatable.",
    ),
]
MoreImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] SOURCE",
        autocompletion=complete_model_or_path,
        help="The model, unless --model, --all or --file is given; and images: --images photos/*.jpg works, too.",
    ),
]
FollowLinksOption = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Follow links in input folders to files outside of them, which are linked or copied into the run.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        callback=common.check_folder,
        help="Run directory; with several models, their parent. Default: runs/MODEL-…",
    ),
]
UpdateOption = Annotated[
    bool,
    typer.Option(
        "--update", help="Where images, weights or the model changed: predict what changed, keep all other predictions."
    ),
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="NAME", help="Where workers run: local (this machine) or slurm.")
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="Setting for --executor slurm: partition, account, qos, time, mem, constraint, gres, gpus_per_task, "
        "cpus_per_task, tasks (of the job array, default 4), throttle (tasks at a time), warning, lease, "
        "wait (follow the run, default true), sbatch (any option of sbatch), setup (a line of shell); repeatable.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", "-w", metavar="N", min=1, max=256, help="Parallel workers. Default: 1 on the CPU, one per GPU."
    ),
]
WorkersPerGpuOption = Annotated[
    str | None,
    typer.Option("--workers-per-gpu", metavar="N|auto", help="Workers on each GPU; auto: as many as its memory fits."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="Threads per worker. Default: all cores, divided by the workers."
    ),
]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for a busy GPU; with slurm, for the run to finish.")
]
WarmOption = Annotated[
    bool | None,
    typer.Option(
        "--warm/--no-warm", help="Use only warm workers, or none. Default: warm workers if fitting ones are up."
    ),
]
SpoolOption = Annotated[
    Path | None,
    typer.Option(
        "--spool",
        metavar="DIR",
        callback=common.refuse_file,
        help="Spool folder of the warm workers. Default: $ORCH_SPOOL, else searched for.",
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user", metavar="UID[:GID]", help="User of workers in containers. Default: you; for root 65534, never root."
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="Most memory of each container, such as 8G. Default: 90% of all, shared."
    ),
]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", metavar="N", min=1, help="Most processes and threads of each container.")
]
FileSizeOption = Annotated[
    str | None, typer.Option("--file-size", metavar="SIZE", help="Largest file that a worker may write. Default: 8G.")
]
OutSizeOption = Annotated[
    str | None, typer.Option("--out-size", metavar="SIZE", help="Most results that a worker has under way.")
]
BatchTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--batch-timeout",
        metavar="SECONDS",
        min=0,
        help="Longest time for one batch, 0: none. Default: 180, or 20 times the slowest so far.",
    ),
]
AnnotationsOption = Annotated[
    Path | None,
    typer.Option(
        "--annotations", "-a", metavar="COCO.json", help="Ground truth: print AP and compare it with --baseline."
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show images, device, downloads, builds, disk space and time of the run; do nothing."
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Run every model that this machine supports.")]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", metavar="ORCH.yaml", help="Run a whole comparison; orch new comparison writes an example."
    ),
]


class RunCommand(PanelCommand):
    """`orch run` with the panels of its help."""

    panels: ClassVar = {
        "What to run": (
            *("model", "all_models", "file", "images", "more_images", "image_root", "follow_links", "settings"),
            "stacks",
            "dry_run",
        ),
        "Where it runs": ("runtime", "variant", "device", "warm", "spool", "offline", "base_image", "build_arg"),
        "Limits of workers": ("user", "memory", "processes", "file_size", "out_size", "batch_timeout"),
        "How fast": ("workers", "workers_per_gpu", "threads", "batch_size", "shard_size", "wait"),
        "Results": ("out", "update", "score_threshold", "max_detections", "exif", "json", "quiet"),
        "Checks for CI": ("annotations", "baseline", "fail_on", "junit", "job_summary"),
        "Cluster": ("executor", "slurm"),
    }


def run(
    context: typer.Context,
    model: ModelsOption = None,
    images: ImagesOption = None,
    more_images: MoreImagesArgument = None,
    out: OutOption = None,
    update: UpdateOption = False,
    image_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images that a COCO file names.")
    ] = None,
    follow_links: FollowLinksOption = False,
    runtime: common.RuntimeOption = "auto",
    executor: ExecutorOption = "local",
    slurm: SlurmOption = None,
    variant: common.VariantOption = None,
    device: common.DeviceOption = None,
    workers: WorkersOption = None,
    workers_per_gpu: WorkersPerGpuOption = None,
    wait: WaitOption = True,
    threads: ThreadsOption = None,
    user: UserOption = None,
    memory: MemoryOption = None,
    processes: ProcessesOption = None,
    file_size: FileSizeOption = None,
    out_size: OutSizeOption = None,
    batch_timeout: BatchTimeoutOption = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images per batch. Default: the model's.")
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=100_000, help="Images per shard, the unit of retry.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(metavar="SCORE", min=0, max=1, help="Lowest score to keep. Default: the model's.")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most instances per image. Default: the model's.")
    ] = None,
    exif: Annotated[
        str, typer.Option(metavar="apply|ignore", help="Apply the EXIF orientation, or ignore it.")
    ] = "apply",
    settings: common.SettingsOption = None,
    offline: common.OfflineOption = False,
    warm: WarmOption = None,
    spool: SpoolOption = None,
    base_image: common.BaseImageOption = None,
    build_arg: common.BuildArgOption = None,
    annotations: AnnotationsOption = None,
    baseline: BaselineOption = None,
    fail_on: FailOnOption = None,
    junit: JunitOption = None,
    job_summary: SummaryOption = None,
    stacks: common.StacksOption = None,
    json: common.JsonOption = False,
    quiet: common.QuietOption = False,
    all_models: AllOption = False,
    file: FileOption = None,
    dry_run: DryRunOption = False,
) -> int:
    """Predict images with one or more models.

    The same command resumes a run that was interrupted.
    """
    checked_by = partial(
        open_gate, fail_on=fail_on, baseline=baseline, annotations=annotations, junit=junit, summary=job_summary
    )
    if file is not None:
        if dry_run:
            why, hint = f"{file} may have several", "orch run -m MODEL -i IMAGES --dry-run"
            raise UsageError("--dry-run is for one set of images", why=why, hint=hint)
        return batch.run_file(context, file, stacks, checked_by, json=json, quiet=quiet)
    names, more = model or [], more_images or []
    if not names and not all_models and more:
        names, more = more[:1], more[1:]
        batch.refuse_path_for_model(names[0], common.catalog(stacks))
    sources = batch.read_standard_input([*(images or []), *more])
    batch.refuse_incomplete(names, sources, all_models)
    build = common.make_build_options(base_image, build_arg, rebuild=False, offline=offline)
    options = _make_options({**context.params, "images": sources, "executor_settings": slurm or [], "build": build})
    if dry_run:
        return show_dry_runs(common.catalog(stacks), names, options, json=json)
    if all_models or len(names) > 1:
        return batch.run_models(common.catalog(stacks), names, options, checked_by, json=json, quiet=quiet)
    return _run_one(names[0], stacks, options, checked_by, json=json, quiet=quiet)


def _make_options(values: Mapping[str, object]) -> RunOptions:
    """Return the options of a run, which have the names of the command's parameters. Raises UsageError."""
    from pydantic import ValidationError

    from orchestrator.plan import RunOptions

    if values["executor_settings"] and values["executor"] != "slurm":
        raise UsageError("--slurm is for --executor slurm")
    try:
        return RunOptions.model_validate({name: values[name] for name in RunOptions.model_fields if name in values})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"--{option.replace('_', '-')} {values[option]}: {message}") from None


def _run_one(
    name: str,
    stacks: list[Path] | None,
    options: RunOptions,
    checked_by: Callable[[list[str]], batch.Checking],
    *,
    json: bool,
    quiet: bool,
) -> int:
    from orchestrator.cli.progress import make_display
    from orchestrator.workflows import run_model

    entry = common.catalog(stacks).model(name)
    with checked_by([entry.name]) as checks:
        try:
            outcome = run_model(entry, options, make_display(json=json, quiet=quiet))
        except Interrupted as stopped:
            if stopped.hint:
                raise
            raise Interrupted("stopped; finished shards are kept", hint=RESUME_HINT) from stopped
        checked = checks.judge(entry.name, outcome.summary) if outcome.complete else None
    report_outcome(outcome, checked, json=json, quiet=quiet)
    return checks.exit_code


def report_outcome(outcome: Outcome, checked: GateResult | None, *, json: bool, quiet: bool) -> None:
    """Print the summary of a run, and the verdicts of its checks."""
    if not outcome.complete:
        if json:
            common.print_json({"run": str(outcome.paths.root), "state": "submitted"})
        elif not quiet:
            common.say(f"the run continues on the cluster; to follow it: orch attach {outcome.paths.root}")
    elif json:
        common.print_json({**outcome.summary, **(checked.as_json() if checked else {})})
    else:
        _print_outcome(outcome, quiet)
        if checked:
            say_verdicts(checked, quiet=quiet)


def _print_outcome(outcome: Outcome, quiet: bool) -> None:
    summary: dict[str, Any] = outcome.summary
    for failure in summary["failures"][:SHOWN_FAILURES]:
        common.say(f"  failed: {failure['image_file']}: {failure['error']}")
    if len(summary["failures"]) > SHOWN_FAILURES:
        common.say(f"  … and {len(summary['failures']) - SHOWN_FAILURES} more, all in {outcome.paths.summary}")
    if summary["failures"]:
        common.say(f"  log: {outcome.paths.logs}")
    if quiet:
        return
    seconds = summary["seconds"]["dispatch"]
    failed = f", {summary['failed']} failed" if summary["failed"] else ""
    images, instances = count_of(summary["predicted"], "image"), count_of(summary["instances"], "instance")
    common.say(f"{images} predicted{failed}; {instances}; {seconds:.1f} s")
    common.say(f"predictions: {outcome.paths.predictions}")
