"""What every warm worker is given, by Compose and by `orch up` alike: command, environment, labels. Pure values."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from orchestrator.catalog.loader import StackEntry
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.runtimes.base import worker_environment
from orchestrator.runtimes.docker.runtime import NAMES
from orchestrator.runtimes.mounts import GUEST, GUEST_HOME

GUEST_SPOOL = PurePosixPath("/spool")
SERVE = ["python", "-m", "orch_runner.serve"]
COMMAND = [*SERVE, str(GUEST_SPOOL)]
CHECK = [*SERVE, "--check", str(GUEST_SPOOL)]
"""Healthy, says its exit status, while the heartbeat is there."""
WARM_LABEL, STACK_LABEL, VARIANT_LABEL = f"{LABEL}.warm", f"{LABEL}.stack", f"{LABEL}.variant"
CHECK_SECONDS = 5
START_SECONDS = 60
"""Within so long after a start, a check that fails means nothing yet."""
STOP_SECONDS = 30
"""So long a worker that is told to stop may take to finish the images at hand."""
LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
"""A worker that serves for months must not fill the disk with its log."""
NOBODY = 65534
"""Who the workers of root run as: no warm worker is root."""


def warm_labels(stack: str, variant: str) -> dict[str, str]:
    """What `orch ps` finds a container by."""
    return {WARM_LABEL: "1", STACK_LABEL: stack, VARIANT_LABEL: variant}


def common_environment() -> dict[str, str]:
    """Environment variables that all warm workers share.

    How many threads are used is said by each run, so the counts that one-shot workers are given are left out.
    """
    own = worker_environment(1, str(GUEST["cache"]), GUEST_HOME)
    return {**{name: value for name, value in own.items() if not name.endswith("_NUM_THREADS")}, **NAMES}


def own_environment(stack: StackEntry, variant: str) -> dict[str, str]:
    """Environment variables that say what a warm worker serves."""
    sources = {name: source.commit for name, source in stack.spec.sources.items()}
    return {
        "ORCH_STACK": stack.name,
        "ORCH_VARIANT": variant,
        "ORCH_DEVICE": stack.spec.variants[variant].device,
        **({"ORCH_SOURCES": json.dumps(sources)} if sources else {}),
    }


def worker_user(caller: tuple[int, int]) -> tuple[int, int]:
    """Who a warm worker runs as: the caller, or nobody where that is root."""
    return (NOBODY, NOBODY) if caller[0] == 0 else caller
