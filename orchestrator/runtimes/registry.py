"""The registry of runtimes: one line for each."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.errors import MachineError
from orchestrator.runtimes.apptainer import ApptainerRuntime
from orchestrator.runtimes.base import Runtime
from orchestrator.runtimes.docker.runtime import DockerRuntime
from orchestrator.runtimes.venv import VenvRuntime
from orchestrator.system import unknown_name

AUTO = "auto"
RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "docker": DockerRuntime,
    "venv": VenvRuntime,
    "apptainer": ApptainerRuntime,
}
AUTO_ORDER = ("docker", "venv")
"""Apptainer is used only by name: where it is installed, an image archive may be missing, and a venv would work."""


def get_runtime(name: str) -> Runtime:
    """Return the runtime of that name, whether or not this machine can use it. Raises UsageError."""
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, [AUTO, *RUNTIMES])
    return RUNTIMES[name]()


def usable_runtimes() -> list[Runtime]:
    """Return the runtimes that this machine can use, in the order of the registry."""
    return [runtime for runtime in map(get_runtime, RUNTIMES) if runtime.unavailable_reason() is None]


def choose_runtime(name: str) -> tuple[Runtime, str]:
    """Return the runtime asked for, or with "auto" the first that this machine can use; and why.

    Raises UsageError for an unknown name, MachineError where the machine can use none.
    """
    if name != AUTO:
        runtime = get_runtime(name)
        reason = runtime.unavailable_reason()
        if reason is not None:
            raise MachineError(f"cannot use the runtime {name} here", why=reason, hint="orch doctor")
        return runtime, "asked for"
    reasons: list[str] = []
    for candidate in AUTO_ORDER:
        runtime = get_runtime(candidate)
        reason = runtime.unavailable_reason()
        if reason is None:
            return runtime, "; ".join(reasons) or "the first that can be used"
        reasons.append(f"{candidate}: {reason}")
    raise MachineError("cannot use any runtime here", why="; ".join(reasons), hint="orch doctor")
