"""Open run directories and predictions files for comparing and reporting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.paths import RunPaths
from orchestrator.predictions import Predictions
from orchestrator.system import read_json_object


@dataclass(frozen=True)
class OpenedRun:
    """One set of predictions, and the run directory that holds it if one was given.

    `label` is the model's name, with the variant or the folder where the name alone is not unique. `run` and `summary`
    are the contents of run.json and summary.json, empty for a predictions file.
    """

    label: str
    path: Path
    predictions: Predictions
    paths: RunPaths | None
    run: dict[str, Any]
    summary: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.predictions.meta.get("model", "?"))

    @property
    def variant(self) -> str:
        return str(self.predictions.meta.get("variant", "?"))

    @property
    def images_per_second(self) -> float | None:
        """Images of the run over the seconds its workers took, their start included; None where not recorded."""
        seconds, images = self.summary.get("seconds"), self.summary.get("images")
        dispatch = seconds.get("dispatch") if isinstance(seconds, dict) else None
        if not isinstance(dispatch, int | float) or not isinstance(images, int):
            return None
        return images / dispatch if dispatch and images else None


def find_predictions(path: Path) -> Path:
    """Return the predictions file of a run directory, or the file itself. UsageError for a run without one."""
    if not path.is_dir():
        return path
    if not (path / "predictions.npz").is_file() and not (path / "run.json").is_file():
        hint = "name a run directory or a predictions.npz; orch ls lists your runs"
        raise UsageError(f"{path} is no run directory", why="it has no predictions.npz and no run.json", hint=hint)
    if not (path / "predictions.npz").is_file():
        raise UsageError(f"{path} has no predictions.npz", why="the run is not complete; the same orch run resumes it")
    return path / "predictions.npz"


def open_runs(paths: Sequence[Path], find: Callable[[Path], Path] = find_predictions) -> list[OpenedRun]:
    """Open run directories or predictions files; `find` returns the predictions file of each.

    UsageError when one is given twice, PredictionsError when broken.
    """
    files = [find(path) for path in paths]
    repeated = [str(path) for path, count in Counter(file.resolve() for file in files).items() if count > 1]
    if repeated:
        raise UsageError(f"{repeated[0]} was given twice")
    opened = [Predictions.load(file) for file in files]
    runs = []
    for label, path, predictions in zip(_make_labels(opened, paths), paths, opened, strict=True):
        run = RunPaths(path) if path.is_dir() else None
        recorded = (_read_document(run.run_json), _read_document(run.summary)) if run is not None else ({}, {})
        runs.append(OpenedRun(label, path, predictions, run, *recorded))
    return runs


def _read_document(path: Path) -> dict[str, Any]:
    """Read a JSON object; return {} where it is missing or broken, as only the predictions are required."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}


def _make_labels(opened: Sequence[Predictions], paths: Sequence[Path]) -> list[str]:
    """Return for each run the shortest of several labels that no other run shares."""
    models = [str(run.meta.get("model", path.stem)) for run, path in zip(opened, paths, strict=True)]
    variants = [f"{model} {run.meta.get('variant', '')}".strip() for run, model in zip(opened, models, strict=True)]
    folders = [f"{model} ({_folder_name(path, model)})" for model, path in zip(models, paths, strict=True)]
    whole = [f"{model} ({path})" for model, path in zip(models, paths, strict=True)]
    labels = []
    for index in range(len(paths)):
        unique = (names[index] for names in (models, variants, folders, whole) if names.count(names[index]) == 1)
        labels.append(next(unique, f"{whole[index]} #{index + 1}"))
    return labels


def _folder_name(path: Path, model: str) -> str:
    """Return the folder's name, with its parent where it is that of the model and says nothing."""
    folder = path.absolute() if path.is_dir() or path.name != "predictions.npz" else path.absolute().parent
    return f"{folder.parent.name}/{folder.name}" if folder.name == model else folder.name
