"""Repeat a run from what its folder or its predictions record, and say what was not the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.paths import RunPaths
from orchestrator.plan import RunOptions, read_run_document
from orchestrator.predictions import Predictions, open_arrays

_IDENTITY = ("orch_version", "build", "image_digest", "weights", "sources", "inputs", "variant", "device", "runtime")
"""Fields of the provenance that may differ though the request is the same."""
_ASKED = ("exif", "score_threshold", "max_detections", "batch_size", "variant", "device", "runtime")
WARM = "warm"


@dataclass(frozen=True)
class Repetition:
    """A run to be repeated: its model, and the options that make the same request."""

    model: str
    options: RunOptions
    predictions: Path
    """The recorded predictions, which the new ones are compared with."""


@dataclass(frozen=True)
class RunDifference:
    """What differs between two runs of one request."""

    provenance: Mapping[str, tuple[Any, Any]]
    """Recorded and new values of the fields that differ."""
    arrays: Sequence[str]
    """Names of the arrays that differ."""

    def as_json(self) -> dict[str, Any]:
        fields = {name: {"recorded": old, "now": new} for name, (old, new) in self.provenance.items()}
        return {"provenance": fields, "arrays": list(self.arrays), "equal": not self.arrays}


def read_repetition(source: Path, images: Sequence[str], out: Path | None, runtime: str | None) -> Repetition:
    """Return what repeats the run of a folder, or that of a predictions file, whose images have to be given.

    Raises UsageError, RunError, PredictionsError.
    """
    paths = RunPaths(source.absolute())
    if source.is_dir():
        try:
            request = dict(read_run_document(paths)["request"])
        except FileNotFoundError:
            raise UsageError(f"{source} is not a run directory", why="it has no run.json", hint="orch ls") from None
        predictions, shown = paths.predictions, source
    else:
        request, predictions, shown = dict(Predictions.load(source).meta), source, source.parent
    if out is not None and predictions.parent.resolve() == out.resolve():
        raise UsageError(f"{out} is the run to be repeated", hint="give another folder: --out FOLDER, or none")
    sources = list(images) or list(request.get("images", ()))
    if not sources:
        why = "a predictions file does not record where its images were"
        raise UsageError("no images were given", why=why, hint=f"orch rerun {source} --images FOLDER")
    values: dict[str, Any] = {name: request.get(name) for name in _ASKED}
    if runtime is not None or values["runtime"] == WARM:
        values["runtime"] = runtime or "auto"
    root = request.get("image_root")
    options = RunOptions(
        images=sources,
        image_root=None if root is None else Path(root),
        settings=[f"{name}={_text(value)}" for name, value in request["settings"].items()],
        out=out or _free_folder(shown),
        **values,
    )
    return Repetition(str(request["model"]), options, predictions)


def _free_folder(run: Path) -> Path:
    """Return the first of RUN-rerun, RUN-rerun-2 and so on that is not complete: an interrupted one is resumed."""
    base, number = run.absolute(), 1
    while True:
        folder = base.with_name(f"{base.name}-rerun" + (f"-{number}" if number > 1 else ""))
        if not (folder / "summary.json").exists():
            return folder
        number += 1


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def find_differences(recorded: Path, new: Path) -> RunDifference:
    """Compare two predictions files array by array. Raises UsageError, PredictionsError."""
    before, after = open_arrays(recorded), open_arrays(new)
    old, now = Predictions.load(recorded).meta, Predictions.load(new).meta
    fields = {name: (old.get(name), now.get(name)) for name in _IDENTITY if old.get(name) != now.get(name)}
    names = sorted({*before, *after} - {"meta"})
    differing = [name for name in names if name not in before or name not in after or not _same(before, after, name)]
    return RunDifference(fields, differing)


def _same(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]], name: str) -> bool:
    """Return whether an array has the same bytes in both files; NaN equals itself."""
    old, new = before[name], after[name]
    return (old.dtype, old.shape) == (new.dtype, new.shape) and old.tobytes() == new.tobytes()
