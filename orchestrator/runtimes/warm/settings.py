"""Command, environment and labels of every warm worker, for Compose and `orch up` alike. Pure values."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from orchestrator.catalog import StackEntry
from orchestrator.hardware import LABEL
from orchestrator.runtimes.base import worker_environment
from orchestrator.runtimes.docker.runtime import NAMES
from orchestrator.runtimes.mounts import GUEST, GUEST_HOME

GUEST_SPOOL = PurePosixPath("/spool")
SERVE = ["python", "-m", "orch_runner.serve"]
COMMAND = [*SERVE, str(GUEST_SPOOL)]
CHECK = [*SERVE, "--check", str(GUEST_SPOOL)]
"""The health check: exits with 0 while the heartbeat is fresh."""
WARM_LABEL, STACK_LABEL, VARIANT_LABEL = f"{LABEL}.warm", f"{LABEL}.stack", f"{LABEL}.variant"
USER_LABEL = f"{LABEL}.user"
"""Label with the uid that a worker runs as: several users may share an engine."""
CHECK_SECONDS = 5
START_SECONDS = 60
"""A health check that fails within this time after the start does not count."""
STOP_SECONDS = 30
"""Seconds for a worker to finish its images before it is killed."""
LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
"""Limits of the log: a worker may run for months."""


def warm_labels(stack: str, variant: str) -> dict[str, str]:
    """Return the labels by which `orch ps` finds a container."""
    return {WARM_LABEL: "1", STACK_LABEL: stack, VARIANT_LABEL: variant}


def common_environment() -> dict[str, str]:
    """Return the environment variables that all warm workers share.

    Each run says how many threads its job uses, so the thread counts of one-shot workers are not among them.
    """
    own = worker_environment(1, str(GUEST["cache"]), GUEST_HOME)
    return {**{name: value for name, value in own.items() if not name.endswith("_NUM_THREADS")}, **NAMES}


def own_environment(stack: StackEntry, variant: str) -> dict[str, str]:
    """Return the environment variables that tell a warm worker which stack and variant it serves."""
    sources = {name: source.commit for name, source in stack.spec.sources.items()}
    return {
        "ORCH_STACK": stack.name,
        "ORCH_VARIANT": variant,
        "ORCH_DEVICE": stack.spec.variants[variant].device,
        **({"ORCH_SOURCES": json.dumps(sources)} if sources else {}),
    }
