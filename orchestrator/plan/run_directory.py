"""The run directory: open it, record a plan in it, refuse another run's."""

from __future__ import annotations

import json
import shutil
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.inputs.collect import InputImage, read_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import Request
from orchestrator.system.files import write_json
from orchestrator.system.locks import hold_lock

RUN_FORMAT = "orch-run/1"

_States = dict[str, tuple[int, int]]
"""Size and time of files."""


def begun_with(paths: RunPaths, field: str = "runtime") -> str | None:
    """The runtime, or what else of its request, of a run that was begun here; None where none was."""
    try:
        return str(json.loads(paths.run_json.read_text(encoding="utf-8"))["request"][field])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def open_run(paths: RunPaths, request: Request) -> Iterator[dict[str, Any] | None]:
    """Hold a run directory: yields its run.json if it was begun before. Raises UsageError if it is not ours to use."""
    if paths.root.exists() and not paths.root.is_dir():
        raise UsageError(f"{paths.root} is a file, not a folder to write a run into")
    if paths.root.is_dir() and not paths.run_json.exists() and _foreign(paths):
        raise UsageError(f"{paths.root} is not empty and no run directory", hint="choose another folder with --out")
    missing = [folder for folder in (paths.root, *paths.root.parents) if not folder.exists()]
    with ExitStack() as stack:
        try:
            held = stack.enter_context(hold_lock(paths.lock, wait=False))
        except OSError as error:
            raise UsageError(f"cannot write to {paths.root}", why=error.strerror or str(error)) from error
        if not held:
            raise UsageError(
                f"another orch is writing to {paths.root}", hint="wait for it, or choose another folder with --out"
            )
        try:
            yield _earlier(paths, request)
        finally:
            if not paths.run_json.exists():  # it failed before it began: leave no trace
                _remove_traces(paths, missing)


def _foreign(paths: RunPaths) -> bool:
    known = {paths.lock.name, paths.unpacked.name}
    return any(path.name not in known for path in paths.root.iterdir())


def _remove_traces(paths: RunPaths, folders: Sequence[Path]) -> None:
    """Remove what `open_run` and the listing of archives made, and those `folders` that are empty then."""
    shutil.rmtree(paths.unpacked, ignore_errors=True)
    paths.lock.unlink(missing_ok=True)
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _earlier(paths: RunPaths, request: Request) -> dict[str, Any] | None:
    if not paths.run_json.exists():
        return None
    try:
        earlier: dict[str, Any] = json.loads(paths.run_json.read_text(encoding="utf-8"))
        before, written_as = earlier["request"], earlier["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{paths.run_json} cannot be read", why=f"{type(error).__name__}: {error}") from None
    if written_as != RUN_FORMAT:
        why = f"its format is {written_as}, this orch writes {RUN_FORMAT}"
        raise UsageError(f"{paths.root} was begun by another version of orch", why=why, hint="choose another --out")
    now = request.as_json()
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        first = differing[0]
        raise UsageError(
            f"{paths.root} is the run of another request",
            why="; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in differing),
            hint=f"choose another folder with --out, or give the same {first} to resume",
        )
    return earlier


def record_plan(paths: RunPaths, plan: Plan, earlier: dict[str, Any] | None, notes: Mapping[str, Any]) -> None:
    """Write run.json and inputs.jsonl, or check that a resumed run still is the same. Raises UsageError."""
    if earlier is not None:
        _refuse_changes(paths, plan, earlier)
        return
    for folder in (paths.shards, paths.logs, paths.jobs):
        folder.mkdir(parents=True, exist_ok=True)
    plan.inputs.images.save(paths.inputs)
    write_json(paths.run_json, run_document(plan, notes))


def run_document(plan: Plan, notes: Mapping[str, Any]) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "format": RUN_FORMAT,
        "request": plan.request.as_json(),
        "plan": plan.digest(),
        "resolved": plan.predictions_meta(),
        "shard_size": plan.shard_size,
        "shards": len(plan.shards),
        "roots": [str(root) for root in plan.inputs.roots],
        "ignored": [asdict(one) for one in plan.inputs.skipped],
        **notes,
    }


def _refuse_changes(paths: RunPaths, plan: Plan, earlier: Mapping[str, Any]) -> None:
    same = plan.inputs.images.is_saved_as(paths.inputs)
    count, first = (0, []) if same else _counted(_changes(read_inputs(paths.inputs), plan.inputs.images))
    if count:
        more = f" and {count - len(first)} more" if count > len(first) else ""
        raise UsageError(
            f"the images changed since the run in {paths.root} began",
            why=", ".join(first) + more,
            hint="begin a new run with --out FOLDER",
        )
    if plan.digest() != earlier.get("plan"):
        resolved = earlier.get("resolved", {})
        meta = plan.predictions_meta()
        differing = [
            f"{name} was {resolved.get(name)}, now {meta[name]}"
            for name in ("build", "weights", "image_digest")
            if resolved.get(name) != meta[name]
        ]
        raise UsageError(
            f"the stack or its weights changed since the run in {paths.root} began",
            why="; ".join(differing) or "another version of orch",
            hint="begin a new run with --out FOLDER",
        )


def _counted(changes: Iterable[str]) -> tuple[int, list[str]]:
    """How many there are, and the first five in order."""
    count, first = 0, list[str]()
    for count, change in enumerate(changes, 1):  # noqa: B007  # the last one counts
        insort(first, change)
        del first[5:]
    return count, first


def _changes(before: Iterable[InputImage], now: Iterable[InputImage]) -> Iterator[str]:
    """What became of the images. Both lists are gone through side by side: only what is out of step is remembered."""
    gone: _States = {}
    new: _States = {}
    for image, waiting, others in _in_turn(before, now, gone, new):
        state = (image.size, image.mtime_ns)
        other = others.pop(image.file, None)
        if other is None:
            waiting[image.file] = state
        elif other != state:
            yield f"changed: {image.file}"
    yield from (f"gone: {file}" for file in gone)
    yield from (f"new: {file}" for file in new)


def _in_turn(
    before: Iterable[InputImage], now: Iterable[InputImage], gone: _States, new: _States
) -> Iterator[tuple[InputImage, _States, _States]]:
    """Each image with where it waits for its like, and where that may wait already."""
    for earlier, later in zip_longest(before, now):
        if earlier is not None:
            yield earlier, gone, new
        if later is not None:
            yield later, new, gone
