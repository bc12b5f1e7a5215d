"""Executors: where workers run. One module each, one line in the dict each."""

from __future__ import annotations

import importlib
from typing import cast

from orchestrator.dispatch.executors import Executor
from orchestrator.errors import UsageError

EXECUTORS = {
    "local": "orchestrator.dispatch.local:LocalExecutor",
    "slurm": "orchestrator.dispatch.slurm.executor:SlurmExecutor",
}


def make_executor(name: str) -> Executor:
    """The executor of that name. Raises UsageError."""
    if name not in EXECUTORS:
        raise UsageError(f"there is no executor {name!r}", why=f"there is {', '.join(EXECUTORS)}")
    module, _, attribute = EXECUTORS[name].partition(":")
    return cast(Executor, getattr(importlib.import_module(module), attribute)())
