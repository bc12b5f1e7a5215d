"""The error tree: each class has an exit code, and every error says what, why, where the log is and what to type."""

from __future__ import annotations

from pathlib import Path


class OrchError(Exception):
    """Base of everything orch reports to its user without a traceback.

    `message` says what failed, `why` the cause, `log` the file to read and `hint` the next command to type.
    """

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        why: str | None = None,
        log: Path | str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.log = None if log is None else str(log)
        self.hint = hint

    def as_json(self) -> dict[str, object]:
        """The error as the JSON object that `--json` prints."""
        fields = {"message": self.message, "why": self.why, "log": self.log, "hint": self.hint}
        return {"error": type(self).__name__, "exit_code": self.exit_code, **fields}


class UsageError(OrchError):
    """The command was wrong: unknown name, missing file, contradictory options."""

    exit_code = 2


class SpecError(OrchError):
    """A stack.yaml is wrong; the message names file, line and field."""

    exit_code = 2


class BuildError(OrchError):
    """An image or environment could not be built."""

    exit_code = 3


class BaseImageError(BuildError):
    """The base image of a build cannot be had: no registry is reached, or it was deleted there."""


class MachineError(OrchError):
    """This machine cannot: no engine, no fitting Python or GPU, no space, missing weights."""

    exit_code = 4


class RuntimeUnsuitable(MachineError):
    """A runtime cannot do a run; another one may."""


class RunError(OrchError):
    """The run failed; what was finished stays on disk."""

    exit_code = 5


class PredictionsError(OrchError):
    """A predictions file is invalid, or two are not comparable."""

    exit_code = 6


class Interrupted(OrchError):
    """The user stopped the run; the same command resumes it."""

    exit_code = 130


EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_BUG = 70
