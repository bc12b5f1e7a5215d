"""Executors: where workers run. One module each, one line in the dict each."""

from __future__ import annotations

from orchestrator.executors.base import Executor
from orchestrator.executors.local import LocalExecutor

EXECUTORS: dict[str, type[Executor]] = {"local": LocalExecutor}
