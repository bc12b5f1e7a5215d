"""A manipulation run as IMDL-BenCo's own script leaves it: pred/<stem>.png and pred_label_combined.json.

Layout: https://github.com/scu-zjz/IMDLBenCo, test_save_images. Where its names would collide (it overwrites one file
with the other), ours keep as much of the path as it takes.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.catalog.spec import MANIPULATION
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions.mask_files import picture_path
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED
from orchestrator.system.files import write_json

LABELS = "pred_label_combined.json"


def export_imdlbenco(predictions: Predictions, target: Path, annotations: Path | None = None) -> None:
    """Write the folder `target`: mode L pictures of the probability, and image-level probabilities by file name.

    Failed images are left out. UsageError for predictions of another task, for `annotations` (the format has no image
    ids), and for a folder that has something in it; PredictionsError where a run's mask pictures are gone.
    """
    if annotations is not None:
        raise UsageError("the format imdlbenco takes no annotations", why="it has no image ids")
    if predictions.meta.get("task") != MANIPULATION:
        raise UsageError(
            "the format imdlbenco is for manipulation localization",
            why=f"these predictions are {predictions.meta.get('task')}",
            hint="orch export FILE --format coco",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already", hint="another folder: --output FOLDER")
    pictures = _pictures(predictions)
    # Names are given with the failed images in: whether one fails must not rename another.
    files = predictions.files
    stems = _shortest(files, [_stem, _without_extension, str])
    names = _shortest(files, [_name, str])
    for i, file in enumerate(files):
        if predictions.status[i] == STATUS_PREDICTED:
            picture = target / "pred" / f"{stems[i]}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_picture(pictures, file), picture)
    _write_labels(predictions, names, target)


def _pictures(predictions: Predictions) -> Path:
    """The mask folder beside the predictions."""
    folder = predictions.path.parent / "masks" if predictions.path is not None else None
    if folder is None or not folder.is_dir():
        raise PredictionsError(
            "the run's mask pictures are not there",
            why=f"they lie in {folder or 'masks/'}, beside predictions.npz",
            hint="give the file in its run directory",
        )
    return folder


def _picture(folder: Path, file: str) -> Path:
    picture = picture_path(folder, file)
    if not picture.is_file():
        raise PredictionsError(f"the mask picture of {file} is not there", why=f"no file {picture}")
    return picture


def _write_labels(predictions: Predictions, names: Sequence[str], target: Path) -> None:
    scores = predictions.image_scores
    if scores is None:
        return
    known = {name: float(score) for name, score in zip(names, scores.tolist(), strict=True) if not math.isnan(score)}
    if known:
        write_json(target / LABELS, known)


def _shortest(files: Sequence[str], ways: Sequence[Callable[[str], str]]) -> list[str]:
    """For each file the first of the `ways` of naming it that no other file shares."""
    shared = [Counter(map(way, files)) for way in ways]
    return [
        next((way(file) for way, count in zip(ways, shared, strict=True) if count[way(file)] == 1), file)
        for file in files
    ]


def _name(file: str) -> str:
    return PurePosixPath(file).name


def _stem(file: str) -> str:
    return PurePosixPath(file).stem


def _without_extension(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))
