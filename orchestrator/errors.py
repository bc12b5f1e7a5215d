"""The error tree: each class has an exit code; an error says what failed, why, the log and the next command."""

from __future__ import annotations

from pathlib import Path


class OrchError(Exception):
    """Base of the errors that orch reports without a traceback.

    `message` says what failed, `why` the cause, `log` the file to read and `hint` the next command to type.
    """

    exit_code = 5

    def __init__(
        self, message: str, *, why: str | None = None, log: Path | str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.log = None if log is None else str(log)
        self.hint = hint

    def as_json(self) -> dict[str, object]:
        """Return the error as the JSON object that `--json` prints."""
        fields = {"message": self.message, "why": self.why, "log": self.log, "hint": self.hint}
        return {"error": type(self).__name__, "exit_code": self.exit_code, **fields}


class UsageError(OrchError):
    """A wrong command: unknown name, missing file, contradictory options."""

    exit_code = 2


class SpecError(OrchError):
    """A wrong stack.yaml or orch.yaml; the message names file, line and field."""

    exit_code = 2


class BuildError(OrchError):
    """A failed build of an image or environment."""

    exit_code = 3


class BaseImageError(BuildError):
    """A base image that cannot be pulled: the registry does not answer or no longer has it."""


class MachineError(OrchError):
    """Something this machine lacks: an engine, a fitting Python or GPU, disk space, weights."""

    exit_code = 4


class RuntimeUnsuitable(MachineError):
    """A runtime cannot do a run; another one may."""


class RunError(OrchError):
    """A failed run; finished shards stay on disk."""

    exit_code = 5


class PredictionsError(OrchError):
    """An invalid predictions file, or two that are not comparable."""

    exit_code = 6


class Interrupted(OrchError):
    """A run that the user stopped; the same command resumes it."""

    exit_code = 130


EXIT_OK = 0
EXIT_SOME_FAILED = 1
EXIT_BUG = 70
