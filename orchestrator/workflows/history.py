"""The runs of this user: found in folders and in a list of paths that orch keeps, which is no more than a shortcut."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.dispatch import find_submission, read_local_state
from orchestrator.errors import OrchError
from orchestrator.paths import RunPaths, history_file
from orchestrator.plan import read_run_document
from orchestrator.system import read_json_object, write_text

DEEPEST = 4
"""Folders below the one that is searched."""
MOST_PATHS = 10_000


@dataclass(frozen=True)
class RunRecord:
    """One run directory as its files describe it; None for what an incomplete or damaged one does not say."""

    path: str
    state: str
    """"complete", "running", "stopped", "damaged", or where it was submitted: "on slurm"."""
    changed: float
    """Seconds since the epoch: when it was completed, or else begun."""
    bytes: int
    """Size of predictions and shards."""
    model: str | None = None
    variant: str | None = None
    device: str | None = None
    runtime: str | None = None
    images: int | None = None
    failed: int | None = None
    instances: int | None = None
    seconds: float | None = None
    """Seconds that predicting took."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def remember_run(root: Path) -> None:
    """Note a new run directory. A list that cannot be written must not end a run."""
    with suppress(OSError, OrchError):
        file = history_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(str(root)) + "\n")


def list_runs(folder: Path | None = None) -> list[RunRecord]:
    """Return the runs below `folder`, or else below the working folder and all that were noted, newest first."""
    noted = _read_paths()
    found = list(_find_runs(folder or Path.cwd()))
    if folder is None:
        found += [path for path in noted if (path / "run.json").is_file()]
    runs = {os.path.realpath(path): path.absolute() for path in found}
    _note_found(runs.values(), noted)
    return sorted((_describe(RunPaths(path)) for path in runs.values()), key=lambda run: -run.changed)


def _read_paths() -> list[Path]:
    try:
        lines = history_file().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    paths: dict[Path, None] = {}
    for line in lines:
        with suppress(ValueError):
            path = json.loads(line)
            if isinstance(path, str) and path.startswith("/") and "\0" not in path:
                paths[Path(path)] = None
    return list(paths)


def _note_found(paths: Iterable[Path], noted: list[Path]) -> None:
    """Write the list anew where runs were found that it lacks: it was lost, or they were moved."""
    known = set(noted)
    if all(path in known for path in paths):
        return
    kept = [path for path in noted if (path / "run.json").is_file()]
    lines = [json.dumps(str(path)) for path in dict.fromkeys([*kept, *paths])][-MOST_PATHS:]
    with suppress(OSError, OrchError):
        write_text(history_file(), "".join(f"{line}\n" for line in lines))


def _find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run directories in a folder and below it; a run's own folders are not searched, links not followed."""
    for name, folders, files in os.walk(folder):
        if "run.json" in files:
            yield Path(name)
            folders.clear()
        elif len(Path(name).relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        else:
            folders[:] = sorted(one for one in folders if not one.startswith("."))


def _describe(paths: RunPaths) -> RunRecord:
    changed = max((_mtime(file) for file in (paths.summary, paths.run_json)), default=0.0)
    size = sum(_size(file) for file in (paths.predictions, *_shards(paths)))
    try:
        document = read_run_document(paths)
        request, resolved = document["request"], document["resolved"]
        submission = find_submission(paths)
        state = read_local_state(paths)
        if state != "complete" and submission is not None:
            state = f"on {submission.executor}"
    except (OrchError, OSError):
        return RunRecord(str(paths.root), "damaged", changed, size)
    done = _summary(paths) if state == "complete" else {}
    return RunRecord(
        str(paths.root),
        state,
        changed,
        size,
        str(resolved["model"]),
        str(request.get("variant")),
        str(request.get("device")),
        str(request.get("runtime")),
        resolved["inputs"]["count"],
        **done,
    )


def _summary(paths: RunPaths) -> dict[str, Any]:
    try:
        summary = read_json_object(paths.summary)
        return {
            "failed": int(summary["failed"]),
            "instances": int(summary["instances"]),
            "seconds": float(summary["seconds"]["dispatch"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _shards(paths: RunPaths) -> list[Path]:
    return list(paths.shards.glob("*.npz")) if paths.shards.is_dir() else []


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.lstat().st_size
    return 0


def _mtime(file: Path) -> float:
    with suppress(OSError):
        return file.lstat().st_mtime
    return 0.0
