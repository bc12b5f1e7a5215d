"""Runtimes: one module each, one line in the dict each."""

from __future__ import annotations

import importlib
from typing import cast

from orchestrator.errors import MachineError, UsageError
from orchestrator.runtimes.base import Runtime

RUNTIMES = {
    "docker": "orchestrator.runtimes.docker.runtime:DockerRuntime",
    "venv": "orchestrator.runtimes.venv:VenvRuntime",
    "apptainer": "orchestrator.runtimes.apptainer:ApptainerRuntime",
}
AUTO_ORDER = ("docker", "venv")
"""Apptainer is taken by name only: where it is, an image archive need not be, and a venv would have done."""


def make_runtime(name: str) -> Runtime:
    """The runtime of that name, whether or not this machine has it. Raises UsageError."""
    if name not in RUNTIMES:
        raise UsageError(f"there is no runtime {name!r}", why=f"there is auto, {', '.join(RUNTIMES)}")
    module, _, attribute = RUNTIMES[name].partition(":")
    return cast(Runtime, getattr(importlib.import_module(module), attribute)())


def choose_runtime(name: str) -> tuple[Runtime, str]:
    """The runtime asked for, or with "auto" the first this machine has; and why. Raises MachineError."""
    if name != "auto":
        runtime = make_runtime(name)
        reason = runtime.available()
        if reason is not None:
            raise MachineError(f"the runtime {name} cannot be used here", why=reason, hint="orch doctor")
        return runtime, "asked for"
    reasons: list[str] = []
    for candidate in AUTO_ORDER:
        runtime = make_runtime(candidate)
        reason = runtime.available()
        if reason is None:
            return runtime, "; ".join(reasons) or "an engine answers"
        reasons.append(f"{candidate}: {reason}")
    raise MachineError("no runtime can be used here", why="; ".join(reasons), hint="orch doctor")
