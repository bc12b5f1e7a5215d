"""`orch help`: a command's help, or a topic that belongs to no single command."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.main

from orchestrator.cli.common import show_line
from orchestrator.system import unknown_name

EXIT_CODES = {
    0: "all images predicted, or no more failed than --fail-on tolerates; no rule broken",
    1: "a rule is broken: images failed, a figure fell",
    2: "a wrong command, annotations, baseline file, stack.yaml or orch.yaml",
    3: "an image or environment could not be built; the log is named",
    4: "this machine cannot do it: no fitting GPU, no engine, no disk space, missing weights",
    5: "the run failed; what is done is kept, and the same command resumes it",
    6: "predictions are invalid, or not comparable with others",
    70: "a bug in orch; please report it with the log that is named",
    130: "interrupted; the same command resumes it",
}

ENVIRONMENT = {
    "ORCH_HOME": "folder of the cache: weights, environments, sources, logs; by default the platform's cache folder",
    "ORCH_SHARED_HOME": "a second cache that somebody else fills: what is complete there is used, never written",
    "ORCH_IMAGES": "folder of image archives and Apptainer's files; by default in the cache",
    "ORCH_STACKS": "folders with stacks of your own, separated by colons; also read: ~/.config/orch/stacks",
    "ORCH_SPOOL": "folder shared with the warm workers of `orch up`; by default in the cache",
    "ORCH_SPOOL_COPY_LIMIT": "most bytes of images that a run copies for warm workers that cannot read them (1G)",
    "ORCH_LEASES": "folder of GPU leases, one for all users of this machine (/tmp/orch-gpu-leases)",
    "ORCH_DOCKER": "the docker or podman command that builds images; by default the first on PATH",
    "ORCH_BASE_IMAGE": "build all images on this base image instead of each stack's own",
    "ORCH_SKIP_DISK_CHECK": "1: do not compare the free disk space with what a build needs",
    "ORCH_TRACEBACK": "1: end with the traceback where orch has a bug",
    "CUDA_VISIBLE_DEVICES": "GPUs that a run may use; a GPU that it names must be there (exit code 4)",
    "GITHUB_STEP_SUMMARY": "file to which `orch run` and `orch compare` append their summary",
}

FORMATS = {
    "images in": "folders, files, globs, .txt lists, .zip and .tar archives, COCO .json, IMDL-BenCo data sets",
    "annotations": "COCO .json; for manipulation localization masks: `orch eval --masks`",
    "predictions": "predictions.npz, the format orch-predictions/2; see docs/predictions.md",
    "exports": "see `orch export --help`",
    "figures": "--json of every command; `orch eval --save-baseline`; `orch report` writes one HTML page",
    "CI": "--junit FILE.xml and --summary FILE.md of `orch run`",
}

_TOPICS: dict[str, dict[str, str]] = {
    "exit-codes": {str(code): meaning for code, meaning in EXIT_CODES.items()},
    "environment": ENVIRONMENT,
    "formats": FORMATS,
}


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the commands and topics that begin so; after a command, its own commands."""
    command: Any = ctx.find_root().command
    words = ctx.params.get("words") or []
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    names = [*getattr(command, "commands", {}), *([] if words else _TOPICS)]
    return [name for name in names if name.startswith(incomplete)]


def show_help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND|TOPIC]",
            autocompletion=_complete,
            help="A command, or one of: exit-codes, environment, formats.",
        ),
    ] = None,
) -> None:
    """Show the help of a command, or of exit codes, environment variables, formats."""
    if words and words[0] in _TOPICS:
        _show_topic(_TOPICS[words[0]])
        return
    group, command = context.parent, context.parent.command if context.parent else None
    for word in words or []:
        commands = getattr(command, "commands", {})
        if group is None or word not in commands:
            raise unknown_name("command or topic", word, [*commands, *_TOPICS], hint="orch --help")
        command = commands[word]
        group = type(group)(command, parent=group, info_name=word)
    if group is not None and command is not None:
        for line in command.get_help(group).rstrip().splitlines():
            show_line(line)


def _show_topic(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, meaning in rows.items():
        show_line(f"{name:<{width}}  {meaning}")
