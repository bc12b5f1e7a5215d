"""The run directory: open and lock it, record a plan in it, refuse a folder of another run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import MachineError, OrchError, RunError, UsageError
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import Request
from orchestrator.predictions import CANVASES, PICTURES
from orchestrator.system import hold_lock, is_regular_file, read_json_object, remove, write_json

RUN_FORMAT = "orch-run/1"
_IMAGE_FIELDS = ("images", "image_root")


def read_request_field(paths: RunPaths, field: str = "runtime") -> str | None:
    """Return a field of the recorded request, the runtime by default; None where no run was begun."""
    try:
        return str(read_json_object(paths.run_json)["request"][field])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def open_run(paths: RunPaths, request: Request, *, update: bool = False) -> Iterator[dict[str, Any] | None]:
    """Lock a run directory and yield its run.json, None for a new run. `update`: other image sources are no error.

    Raises UsageError for a folder that belongs to another request or program, or cannot be written; MachineError for a
    full disk; RunError for damaged files of a run.
    """
    if paths.root.exists() and not paths.root.is_dir():
        raise UsageError(f"{paths.root} is a file, not a folder to write a run into")
    if paths.root.is_dir() and not os.path.lexists(paths.run_json) and _has_foreign_files(paths):
        raise UsageError(f"{paths.root} is not empty and not a run directory", hint="choose another folder with --out")
    missing = [folder for folder in (paths.root, *paths.root.parents) if not folder.exists()]
    with ExitStack() as stack:
        try:
            held = stack.enter_context(hold_lock(paths.lock, wait=False))
        except OSError as error:
            why, hint = error.strerror or str(error), "choose another folder with --out, or free disk space"
            raise UsageError(f"cannot write to {paths.root}", why=why, hint=hint) from error
        if not held:
            raise UsageError(
                f"another orch is writing to {paths.root}", hint="wait for it, or choose another folder with --out"
            )
        _refuse_links(paths)
        try:
            if paths.update.exists():
                finish_update(paths)
            yield _earlier(paths, request, _IMAGE_FIELDS if update else ())
        except OSError as error:
            named = _name_damage(paths, error)
            if named is None:
                raise
            raise named from error
        finally:
            if not os.path.lexists(paths.run_json):  # it failed before it began
                _remove_traces(paths, missing)


def _has_foreign_files(paths: RunPaths) -> bool:
    """Return whether a folder without run.json has more in it than what is written before run.json."""
    known = {paths.lock, paths.unpacked, *_unrecorded(paths)}
    return any(path not in known for path in paths.root.iterdir())


def _unrecorded(paths: RunPaths) -> list[Path]:
    """Return what `record_plan` leaves when it ends before run.json is written: a full disk, a power cut."""
    files = [path for path in (paths.inputs,) if is_regular_file(path)]
    files += [path for kept in (paths.inputs, paths.run_json) for path in paths.root.glob(f".{kept.name}.*.tmp")]
    folders = (paths.shards, paths.logs, paths.jobs)
    return files + [path for path in folders if path.is_dir() and not path.is_symlink() and not any(path.iterdir())]


def _remove_traces(paths: RunPaths, folders: Sequence[Path]) -> None:
    """Remove what a run left that did not begin, and those of `folders` that are then empty."""
    for path in (paths.unpacked, *_unrecorded(paths), paths.lock):
        remove(path)
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _refuse_links(paths: RunPaths) -> None:
    """Raise RunError where a folder of the run is a link or a file: it would be written to whatever it leads to."""
    of_masks = [parent / kind.folder for kind in (PICTURES, CANVASES) for parent in (paths.shards, paths.root)]
    folders = (paths.shards, *of_masks, paths.logs, paths.jobs, paths.unpacked)
    for folder in (*folders, paths.claims, paths.tasks, paths.task_events):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise RunError(
                f"{folder} is not a folder of its own",
                why="it is a link or a file",
                hint=f"put the folder itself there, or remove {folder.name} and run the same command again",
            )


def _name_damage(paths: RunPaths, error: OSError) -> OrchError | None:
    """Return the error about a file of the run directory for users; None for any other error."""
    file = error.filename2 or error.filename
    if not isinstance(file, str | Path) or not Path(file).is_relative_to(paths.root):
        return None
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = f"{'free disk space' if is_full else f'remove {file}'}, then run the same command again: it resumes"
    kind = MachineError if is_full else RunError
    return kind(f"cannot use {file}", why=error.strerror, hint=hint)


def read_run_document(paths: RunPaths) -> dict[str, Any]:
    """Return run.json, its fields of the kinds that they must have. Raises FileNotFoundError, RunError."""
    try:
        document = read_json_object(paths.run_json)
        resolved = document["resolved"]
        fields = (
            (document, {"format": str, "request": dict, "plan": str, "resolved": dict, "shard_size": int}),
            (document, {"shards": int, "roots": list, "ignored": list}),
            (resolved, {"model": str, "inputs": dict}),
            (resolved["inputs"], {"count": int, "digest": str}),
        )
        for part, kinds in fields:
            for name, kind in kinds.items():
                if type(part[name]) is not kind or (kind is int and part[name] < 0):
                    raise ValueError(f"{name!r} is {part[name]!r}"[:200])
        if document["shard_size"] < 1:
            raise ValueError("'shard_size' is 0")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise RunError(
            f"{paths.run_json} is damaged", why=why, hint="restore it, or begin a new run with --out FOLDER"
        ) from None
    return document


def _earlier(paths: RunPaths, request: Request, may_differ: Sequence[str]) -> dict[str, Any] | None:
    if not os.path.lexists(paths.run_json):
        return None
    earlier = read_run_document(paths)
    before, written_as = earlier["request"], earlier["format"]
    if written_as != RUN_FORMAT:
        why = f"its format is {written_as}; this version writes {RUN_FORMAT}"
        raise UsageError(f"{paths.root} was begun by another version of orch", why=why, hint="choose another --out")
    now = request.as_json()
    differing = [name for name in now if before.get(name) != now[name] and name not in may_differ]
    if differing:
        first = differing[0]
        raise UsageError(
            f"{paths.root} belongs to another request",
            why="; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in differing),
            hint=f"choose another folder with --out, or give the same {first} to resume",
        )
    return earlier


def record_plan(paths: RunPaths, plan: Plan, earlier: dict[str, Any] | None, notes: Mapping[str, Any]) -> None:
    """Write run.json and inputs.jsonl of a new run; for a resumed one, check its digest. Raises UsageError."""
    if earlier is not None:
        if plan.digest() != earlier["plan"]:  # the caller compared all else
            raise UsageError(
                f"the model, its weights or its images changed while the run in {paths.root} was prepared",
                hint="run the same command again",
            )
        return
    for path in _unrecorded(paths):
        remove(path)
    for folder in (paths.shards, paths.logs, paths.jobs):
        folder.mkdir(parents=True, exist_ok=True)
    plan.inputs.images.save(paths.inputs)
    write_json(paths.run_json, run_document(plan, notes))


def run_document(plan: Plan, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of run.json."""
    return {
        "format": RUN_FORMAT,
        "request": plan.request.as_json(),
        "plan": plan.digest(),
        "parts": plan.result_parts(),
        "resolved": plan.predictions_meta(),
        "shard_size": plan.shard_size,
        "shards": len(plan.shards),
        "roots": [str(root) for root in plan.inputs.roots],
        "ignored": [asdict(one) for one in plan.inputs.skipped],
        **notes,
    }


def finish_update(paths: RunPaths) -> None:
    """Put a prepared update into place; remove one that was not prepared to its end."""
    new = RunPaths(paths.update)
    if not is_regular_file(new.run_json):
        shutil.rmtree(new.root, ignore_errors=True)
        return
    for file in (paths.summary, paths.predictions, paths.work, paths.cancelled):
        remove(file)
    for folder in (paths.claims, paths.tasks, paths.task_events):
        shutil.rmtree(folder, ignore_errors=True)
    if new.shards.is_dir():
        for folder in (paths.shards, paths.masks, paths.canvases):
            shutil.rmtree(folder, ignore_errors=True)
        new.shards.rename(paths.shards)
    if new.inputs.exists():
        os.replace(new.inputs, paths.inputs)
    os.replace(new.run_json, paths.run_json)
    new.root.rmdir()
