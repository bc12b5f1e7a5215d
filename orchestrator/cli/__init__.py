"""The command line: parse, call a stage, print, and return its exit code; heavy imports stay inside commands."""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import typer
import typer.main
from typer.core import TyperGroup

from orchestrator.cli import (
    build,
    cluster,
    comparison,
    compose,
    config,
    convert,
    equivalence,
    evaluation,
    history,
    imports,
    models,
    plan,
    predictions,
    prune,
    run,
    schema,
    selftest,
    setup,
    sources,
    topics,
    view,
    warm,
    weights,
)
from orchestrator.cli.common import print_error, print_json, say_text, show_line
from orchestrator.cli.panels import PanelGroup
from orchestrator.errors import EXIT_BUG, EXIT_OK, Interrupted, OrchError, UsageError
from orchestrator.system import __version__, end_live_lines, explain_refusal, raise_on_sigterm

_FORMER_OPTIONS = (
    *("partition", "account", "qos", "time", "mem", "gres", "gpus-per-task", "cpus-per-task"),
    *("constraint", "sbatch", "tasks", "throttle"),
)
"""Options of `orch run` until 0.1, now settings of Slurm."""


class _RootGroup(PanelGroup):
    """All commands, in the order in which most people meet them."""

    panels: ClassVar = {
        "Predict": ("run", "plan", "rerun", "status", "attach", "cancel"),
        "Look at results": (
            *("ls", "inspect", "validate", "draw", "view", "eval", "compare", "report", "export", "import"),
        ),
        "Models": (
            "models",
            "weights",
            "sources",
            "build",
            "selftest",
            "test-stack",
            "equivalence",
            "convert",
            "new",
            "schema",
        ),
        "Warm workers": ("up", "ps", "logs", "down", "compose"),
        "This machine": ("doctor", "demo", "prune", "config", "help"),
    }


app = typer.Typer(
    cls=_RootGroup,
    name="orch",
    help="Run published vision models whose dependencies conflict: each in its own environment, "
    "all to one standard predictions file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        show_line(f"orch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Run published vision models, each in its own environment."""


app.command("run", cls=run.RunCommand, epilog=run.EXAMPLES)(run.run)
app.command("plan")(plan.plan)
app.command("rerun")(history.rerun)
app.command("ls")(history.list_runs)
app.command("status")(cluster.status)
app.command("attach")(cluster.attach)
app.command("cancel")(cluster.cancel)
app.command("build")(build.build)
app.command("selftest")(selftest.selftest)
app.command("test-stack")(selftest.check_stack)
app.command("equivalence")(equivalence.equivalence)
app.add_typer(models.app, name="models")
app.add_typer(weights.app, name="weights")
app.add_typer(sources.app, name="sources")
app.command("convert")(convert.convert)
app.command("inspect")(predictions.inspect)
app.command("validate")(predictions.validate)
app.command("export")(predictions.export)
app.add_typer(imports.app, name="import")
app.command("draw")(predictions.draw)
app.command("eval")(evaluation.evaluate)
app.command("compare")(comparison.compare)
app.command("report")(comparison.report)
app.command("view")(view.view)
app.command("prune")(prune.prune)
app.command("compose")(compose.compose)
app.command("up")(warm.up)
app.command("down")(warm.down)
app.command("ps")(warm.ps)
app.command("logs")(warm.logs)
app.command("doctor")(setup.doctor)
app.add_typer(setup.new, name="new")
app.command("demo")(setup.demo)
app.add_typer(config.app, name="config")
app.command("schema")(schema.schema)
app.command("help")(topics.show_help)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; README lists the codes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        with raise_on_sigterm(KeyboardInterrupt()):  # while workers run, the dispatcher gets the signal
            code = _invoke(given)
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _failed(Interrupted("stopped", hint="the same command resumes it"), as_json)
    except BrokenPipeError:  # `orch … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:
        help_text = _help_text(error)
        if help_text is not None and not as_json:
            say_text(help_text)
            return UsageError.exit_code
        known = _known(error)
        if isinstance(known, UsageError) and known.hint is None:
            known.hint = f"{_name_command(given)} --help"
        return _bug(error, as_json) if known is None else _failed(known, as_json)


def _name_command(given: Sequence[str]) -> str:
    """Return the command that arguments begin with: "orch run"."""
    words = ["orch"]
    command: Any = typer.main.get_command(app)
    for word in given:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        words.append(word)
    return " ".join(words)


def _invoke(arguments: list[str]) -> int:
    _refuse_empty(arguments)
    # Not app(): Typer's own main would swallow Ctrl-C and closed pipes.
    group = cast(TyperGroup, typer.main.get_command(app))
    if "_ORCH_COMPLETE" in os.environ:
        group._main_shell_completion({}, "orch")
    try:
        with group.make_context("orch", arguments, default_map=config.default_values(group)) as context:
            return int(context.command.invoke(context) or 0)
    except typer.Exit as stopped:
        return int(stopped.exit_code)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raise UsageError for an empty value: as a path it would be the working directory."""
    for number, argument in enumerate(arguments):
        before = arguments[number - 1] if number else ""
        name, equals, value = argument.partition("=")
        if argument == "" or (name.startswith("--") and equals and not value):
            option = name or (before if before.startswith("-") else "")
            what = f"the value of {option} is empty" if option else "an argument is empty"
            hint = f"orch {arguments[0]} --help" if arguments[0] else "orch --help"
            raise UsageError(what, why="a variable in the command may not be set", hint=hint)


def _failed(error: OrchError, as_json: bool) -> int:
    end_live_lines()
    try:
        print_json(error.as_json()) if as_json else print_error(error)
        sys.stdout.flush()
    except OSError:  # stdout is a file on a full disk, and Python would try once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(error)
    return error.exit_code


def _known(error: Exception) -> OrchError | None:
    """Return the error as an OrchError if the user or the machine caused it; None for a bug."""
    if isinstance(error, OrchError):
        return error
    refused = explain_refusal(error) if isinstance(error, OSError) else None
    if refused is not None:
        return refused
    formatted = getattr(error, "format_message", None)  # the command line's parser
    if formatted is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "orch"
    message = f"{command} is not complete" if _help_text(error) is not None else formatted()
    option = str(getattr(error, "option_name", "")).removeprefix("--")
    hint = f"--slurm {option.replace('-', '_')}=…" if option in _FORMER_OPTIONS else f"{command} --help"
    file = config.find_file(context, getattr(error, "param", None))
    return UsageError(message, why=None if file is None else f"{file} says so", hint=hint)


def _help_text(error: Exception) -> str | None:
    """Return the help that the parser shows for a command without arguments; None for any other error."""
    formatted, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if formatted is None or context is None or formatted() != context.get_help():
        return None
    return str(formatted())


def _bug(error: Exception, as_json: bool) -> int:
    end_live_lines()
    from orchestrator.paths import build_logs_folder

    if os.environ.get("ORCH_TRACEBACK"):
        raise error
    text = f"orch {__version__} {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}"
    log = None
    try:
        log = build_logs_folder() / f"bug-{time.strftime('%Y%m%d-%H%M%S')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, UsageError):
        say_text(text)
    bug = OrchError(f"this is a bug in orch: {type(error).__name__}: {error}", log=log, hint="please report it")
    print_json({**bug.as_json(), "exit_code": EXIT_BUG}) if as_json else print_error(bug)
    return EXIT_BUG


def entry_point() -> None:
    """Start the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
