"""What a worker in an image sees: the same folders under the same names, whichever runtime starts it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from orchestrator.runtimes.base import Prepared, WorkerSpec
from orchestrator.runtimes.guest_contract import QUEUE_NAME, GuestPaths

GUEST = {name: PurePosixPath(f"/{name}") for name in ("job", "data", "weights", "out", "cache")}
GUEST_STACK = PurePosixPath("/opt/orch/stack")
GUEST_SOURCES = PurePosixPath("/opt/orch/sources")
GUEST_HOME = "/tmp/home"


def image_paths(prepared: Prepared) -> GuestPaths:
    """The mount points: the same in every image."""
    queue = GUEST["job"] / QUEUE_NAME
    sources = {name: GUEST_SOURCES / name for name in prepared.stack.spec.sources}
    data, weights, out, cache = (GUEST[name] for name in ("data", "weights", "out", "cache"))
    return GuestPaths(data, weights, out, cache, queue, GUEST_STACK, sources=sources)


def bound_folders(spec: WorkerSpec) -> list[tuple[Path, PurePosixPath, bool]]:
    """The folders of the host that a worker sees, under which name, and whether it may only read them."""
    folders: list[tuple[Path, PurePosixPath, bool]] = [
        (spec.job, GUEST["job"], True),
        (spec.weights, GUEST["weights"], True),
        (spec.out, GUEST["out"], False),
        (spec.cache, GUEST["cache"], False),
    ]
    return folders + [(root, GUEST["data"] / str(number), True) for number, root in enumerate(spec.roots)]
