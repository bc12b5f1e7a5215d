"""Leftovers in orch's cache: environments and sources that no stack needs, logs, worker caches."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from orchestrator.catalog import Catalog, StackEntry, tree_folder
from orchestrator.errors import OrchError
from orchestrator.paths import RunPaths, build_logs_folder, environments_folder, home
from orchestrator.runtimes import BuildOptions, Runtime, environment_folder, find_user, usable_runtimes
from orchestrator.system import hold_lock
from orchestrator.workflows.convert import LOCK_NAME as CONVERT_LOCK
from orchestrator.workflows.convert import PYTHONS as CONVERT_PYTHONS
from orchestrator.workflows.prune.leftovers import DAY, Leftover, Scope

LOG_DAYS = 14
ASIDE = ".pruned-"
_RUNNER = b"orch_runner"


def file_leftovers(catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    """Yield all kinds, one after another."""
    yield from _environments(catalog, scope)
    yield from _sources(catalog, scope)
    yield from _self_tests(catalog, scope)
    yield from _logs(catalog, scope)
    if scope.everything:
        yield from _worker_caches(catalog, scope)


def _environments(catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    current, names = set[str](), dict[str, str]()
    runtimes = usable_runtimes()
    for stack in catalog.stacks.values():
        for folder in _current_environments(stack, runtimes):
            names[folder.name.rpartition("-")[0]] = stack.name
            current.add(folder.name)
    for folder in _children(environments_folder()):
        lock = folder.with_name(f".{folder.name.removeprefix(ASIDE)}.lock")
        if folder.name.startswith(ASIDE) and not scope.stacks:
            yield _folder("environment", folder, "partly removed", lock)
        if folder.name.startswith("."):
            continue
        name = folder.name.rpartition("-")[0]
        stack_name = names.get(name) or _by_prefix(folder.name, catalog)
        why = "--all" if scope.everything else None
        if why is None and name in names and folder.name not in current:
            why = f"made from an older lock of {name}"
        if why is not None and scope.covers(stack_name) and scope.is_old(folder.stat().st_mtime):
            yield _folder("environment", folder, why, lock)


def _current_environments(stack: StackEntry, runtimes: Sequence[Runtime]) -> Iterator[Path]:
    """Yield the folder of every environment that a stack may have, made or not."""
    for variant in stack.spec.variants:
        for runtime in runtimes:
            with suppress(OrchError, OSError):
                path = Path(runtime.locate(stack, variant, BuildOptions()).path)
                if path.parent == environments_folder():
                    yield path
    convert_lock = stack.folder / CONVERT_LOCK
    if convert_lock.is_file():
        yield environment_folder(f"{stack.name}-convert", convert_lock, CONVERT_PYTHONS)


def _sources(catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    wanted = [
        (name, stack.name, tree_folder(name, source).parent.name)
        for stack in catalog.stacks.values()
        for name, source in stack.spec.sources.items()
    ]
    current = {folder for _, _, folder in wanted}
    for folder in _children(home() / "sources"):
        if folder.name.startswith("."):
            continue
        name = folder.name.rpartition("-")[0].rpartition("-")[0]
        stack_name = next((stack for known, stack, _ in wanted if known == name), None)
        why = "--all" if scope.everything else None
        if why is None and stack_name is not None and folder.name not in current:
            why = f"another commit of {name} than the one of {stack_name}"
        if why is not None and scope.covers(stack_name) and scope.is_old(folder.stat().st_mtime):
            yield _folder("source", folder, why, home() / "locks" / f"source-{folder.name}.lock")


def _self_tests(catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    models = {f"{name}-": entry.stack.name for name, entry in catalog.models.items()}
    for folder in _children(home() / "selftest"):
        stack = next((stack for name, stack in models.items() if folder.name.startswith(name)), None)
        if scope.covers(stack) and (scope.everything or time.time() - folder.stat().st_mtime > DAY):
            yield _folder("self-test", folder, "the next self-test makes it again", RunPaths(folder / "run").lock)


def _logs(catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    for path in _children(build_logs_folder()):
        state = path.stat()
        age = (time.time() - state.st_mtime) / DAY
        stack = _by_prefix(path.name.removeprefix("orch-"), catalog)
        if path.is_file() and scope.covers(stack) and (scope.everything or age > LOG_DAYS):
            why = "--all" if scope.everything else f"{age:.0f} days old"
            yield Leftover("log", str(path), state.st_size, why, partial(path.unlink, missing_ok=True))


def _worker_caches(catalog: Catalog, scope: Scope) -> Iterator[Leftover]:
    for folder in _children(home() / "worker-cache"):
        if scope.covers(_by_prefix(folder.name, catalog)):
            remove = partial(_remove_cache, folder)
            yield Leftover("worker cache", str(folder), size_of(folder), "--all", remove)


def _by_prefix(name: str, catalog: Catalog) -> str | None:
    """Return the stack with the longest name that a file's name begins with."""
    matching = [stack for stack in catalog.stacks if name.startswith(f"{stack}-")]
    return max(matching, key=len, default=None)


def _folder(kind: str, folder: Path, why: str, lock: Path) -> Leftover:
    return Leftover(kind, str(folder), size_of(folder), why, partial(_remove_folder, folder, lock))


def _remove_folder(folder: Path, lock: Path) -> str | None:
    """Rename, then remove, so that a part is never taken for the whole; return why it is kept."""
    if any(os.fsencode(f"{folder}/") in command for command in _commands()):
        return "a process uses it"
    user = find_user(folder)
    if user is not None:
        return user
    aside = folder if folder.name.startswith(ASIDE) else folder.with_name(f"{ASIDE}{folder.name}")
    with suppress(FileNotFoundError), hold_lock(lock, wait=False) as acquired:
        if not acquired:
            return "another orch process is using it"
        if aside != folder:
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        shutil.rmtree(aside)
    return None


def _remove_cache(folder: Path) -> str | None:
    """Remove a worker cache; return why not where workers are running that may write to it."""
    if any(_RUNNER in command for command in _commands()):
        return "workers are running on this machine"
    shutil.rmtree(folder)
    return None


def _commands() -> Iterator[bytes]:
    """Yield the command lines of all processes, on Linux those in containers too."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() else []


def size_of(folder: Path) -> int:
    """Return the bytes on disk, counting a file with several names once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                state = os.lstat(os.path.join(parent, name))
                sizes[state.st_dev, state.st_ino] = state.st_blocks * 512
    return sum(sizes.values())
