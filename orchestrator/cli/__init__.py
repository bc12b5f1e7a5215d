"""The command line: parse, call a stage, print. The only owner of exit codes; heavy imports stay inside commands."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence

import typer

from orchestrator import __version__
from orchestrator.cli import models, predictions, run, setup, weights
from orchestrator.cli.common import print_error, print_json, say
from orchestrator.errors import EXIT_BUG, Interrupted, OrchError

app = typer.Typer(
    name="orch",
    help="Run published vision models whose dependencies conflict, each in an environment of its own, "
    "to one standard predictions file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"orch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Run published vision models, each in an environment of its own."""


app.command("run")(run.run)
app.command("build")(run.build)
app.add_typer(models.app, name="models")
app.add_typer(weights.app, name="weights")
app.command("inspect")(predictions.inspect)
app.command("validate")(predictions.validate)
app.command("export")(predictions.export)
app.command("draw")(predictions.draw)
app.command("doctor")(setup.doctor)
app.add_typer(setup.new, name="new")
app.command("demo")(setup.demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code: see README for the codes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        result = app(args=given, prog_name="orch", standalone_mode=False)
        return int(result or 0)
    except OrchError as error:
        print_json(error.as_json()) if as_json else print_error(error)
        return error.exit_code
    except typer.Exit as stopped:
        return int(stopped.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        stopped_by_user = Interrupted("stopped", hint="the same command goes on where it stopped")
        print_json(stopped_by_user.as_json()) if as_json else print_error(stopped_by_user)
        return stopped_by_user.exit_code
    except BrokenPipeError:  # `orch … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        usage = _usage_message(error)
        if usage is not None:
            print_json({"error": "UsageError", "exit_code": 2, "message": usage}) if as_json else say(usage)
            return 2
        return _bug(error, as_json)


def _usage_message(error: Exception) -> str | None:
    """The text of a mistake in the command line, in the parser's own words; None for anything else."""
    formatted = getattr(error, "format_message", None)
    if formatted is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "orch"
    return f"error: {formatted()}\n  next: {command} --help"


def _bug(error: Exception, as_json: bool) -> int:
    from orchestrator.paths import build_logs_folder

    if os.environ.get("ORCH_TRACEBACK"):
        raise error
    log = build_logs_folder() / f"bug-{time.strftime('%Y%m%d-%H%M%S')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"orch {__version__} {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}", encoding="utf-8")
    bug = OrchError(f"this is a bug in orch: {type(error).__name__}: {error}", log=log, hint="please report it")
    print_json({**bug.as_json(), "exit_code": EXIT_BUG}) if as_json else print_error(bug)
    return EXIT_BUG


def entry_point() -> None:
    """The console script."""
    sys.exit(main())
