"""Runs and predictions files as given on the command line, opened: what comparing and reporting start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.paths import RunPaths
from orchestrator.predictions.predictions import Predictions
from orchestrator.system.files import read_json_object


@dataclass(frozen=True)
class Source:
    """One set of predictions, and the run directory it lies in if it was given as one.

    `label` tells it from the others: the model's name, with the variant or the folder where that is not enough.
    `run` and `summary` are the contents of run.json and summary.json, empty for a lone file.
    """

    label: str
    path: Path
    predictions: Predictions
    paths: RunPaths | None
    run: dict[str, Any]
    summary: dict[str, Any]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.predictions.meta.get("model", "?"))

    @property
    def variant(self) -> str:
        """The variant that ran."""
        return str(self.predictions.meta.get("variant", "?"))

    @property
    def images_per_second(self) -> float | None:
        """Images of the run over the seconds its workers took, their start included; None where not recorded."""
        seconds, images = self.summary.get("seconds"), self.summary.get("images")
        dispatch = seconds.get("dispatch") if isinstance(seconds, dict) else None
        if not isinstance(dispatch, int | float) or not isinstance(images, int):
            return None
        return images / dispatch if dispatch and images else None


def predictions_file(path: Path) -> Path:
    """The predictions file of a run directory, or the file itself. UsageError for a run without one."""
    if not path.is_dir():
        return path
    if not (path / "predictions.npz").is_file():
        raise UsageError(f"{path} has no predictions.npz", why="the run is not complete; the same orch run resumes it")
    return path / "predictions.npz"


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """Open run directories or predictions files. UsageError, PredictionsError as for each alone, or if one is twice."""
    files = [predictions_file(path) for path in paths]
    twice = [str(path) for path, count in Counter(file.resolve() for file in files).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]} was given twice")
    opened = [Predictions.load(file) for file in files]
    labels = _labels(opened, paths)
    return [_source(*one) for one in zip(labels, paths, opened, strict=True)]


def _source(label: str, path: Path, predictions: Predictions) -> Source:
    if not path.is_dir():
        return Source(label, path, predictions, None, {}, {})
    paths = RunPaths(path)
    return Source(label, path, predictions, paths, _document(paths.run_json), _document(paths.summary))


def _document(path: Path) -> dict[str, Any]:
    """A JSON object beside the predictions; empty where there is none: the predictions are what matters."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}


def _labels(opened: Sequence[Predictions], paths: Sequence[Path]) -> list[str]:
    models = [str(one.meta.get("model", path.stem)) for one, path in zip(opened, paths, strict=True)]
    variants = [f"{model} {one.meta.get('variant', '')}".strip() for one, model in zip(opened, models, strict=True)]
    folders = [f"{model} ({_folder(path)})" for model, path in zip(models, paths, strict=True)]
    whole = [f"{model} ({path})" for model, path in zip(models, paths, strict=True)]
    return [_first_unique((models, variants, folders, whole), place) for place in range(len(paths))]


def _folder(path: Path) -> str:
    return path.name if path.is_dir() or path.name != "predictions.npz" else path.absolute().parent.name


def _first_unique(choices: Sequence[Sequence[str]], place: int) -> str:
    unique = (names[place] for names in choices if names.count(names[place]) == 1)
    return next(unique, f"{choices[-1][place]} #{place + 1}")
