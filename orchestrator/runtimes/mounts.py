"""The names under which workers see their folders: mounted in an image, or the host's own."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from orchestrator.catalog import tree_folder
from orchestrator.runtimes.base import Prepared, WorkerSpec
from orchestrator.runtimes.guest_contract import QUEUE_NAME, GuestPaths

GUEST = {name: PurePosixPath(f"/{name}") for name in ("job", "data", "weights", "out", "cache")}
GUEST_STACK = PurePosixPath("/opt/orch/stack")
GUEST_SOURCES = PurePosixPath("/opt/orch/sources")
GUEST_HOME = "/tmp/home"


def image_paths(prepared: Prepared) -> GuestPaths:
    """Return the mount points, the same in every image."""
    queue = GUEST["job"] / QUEUE_NAME
    sources = {name: GUEST_SOURCES / name for name in prepared.stack.spec.sources}
    data, weights, out, cache = (GUEST[name] for name in ("data", "weights", "out", "cache"))
    return GuestPaths(data, weights, out, cache, queue, GUEST_STACK, sources=sources)


def host_paths(prepared: Prepared, spec: WorkerSpec) -> GuestPaths:
    """Return the host's own paths, for workers that are processes of this machine."""
    stack, queue = prepared.stack, spec.job / QUEUE_NAME
    sources = {name: tree_folder(name, source) for name, source in stack.spec.sources.items()}
    return GuestPaths(spec.data, spec.weights, spec.out, spec.cache, queue, stack.folder, sources=sources)


def bound_folders(spec: WorkerSpec) -> list[tuple[Path, PurePosixPath, bool]]:
    """Return (folder on the host, name in the image, is read-only) of each folder of a worker.

    All are absolute: an engine takes a relative path for the name of a volume, or refuses it.
    """
    folders: list[tuple[Path, PurePosixPath, bool]] = [
        (spec.job, GUEST["job"], True),
        (spec.weights, GUEST["weights"], True),
        (spec.out, GUEST["out"], False),
        (spec.cache, GUEST["cache"], False),
    ]
    folders += [(root, GUEST["data"] / str(number), True) for number, root in enumerate(spec.roots)]
    return [(folder.absolute(), name, is_read_only) for folder, name, is_read_only in folders]
