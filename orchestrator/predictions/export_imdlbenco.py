"""Export a manipulation run as IMDL-BenCo's script does: pred/<stem>.png, pred_label_combined.json.

Layout: https://github.com/scu-zjz/IMDLBenCo, test_save_images. Where two of its names would be equal (it overwrites one
file with the other), ours are paths.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.catalog import MANIPULATION
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions.mask_files import picture_path
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED
from orchestrator.system import replace_path, write_json

LABELS = "pred_label_combined.json"


def export_imdlbenco(predictions: Predictions, target: Path, annotations: Path | None = None) -> None:
    """Write to the folder `target` grey pictures of the probability, and image-level probabilities.

    Failed images are skipped. UsageError for predictions of another task, for `annotations` (the format has no image
    ids), and for a folder that is not empty; PredictionsError when a run's mask pictures are missing.
    """
    if annotations is not None:
        raise UsageError("the format imdlbenco cannot use annotations", why="it has no image ids")
    if predictions.meta.get("task") != MANIPULATION:
        raise UsageError(
            "the format imdlbenco is for manipulation localization",
            why=f"these predictions are {predictions.meta.get('task')}",
            hint="orch export FILE --format coco",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already", hint="give another folder: --output FOLDER")
    pictures = _find_pictures(predictions)
    # Failed images take part in naming, so that a failure never renames another image.
    files = predictions.files
    stems = choose_names(files, [_stem, _path_without_extension, str])
    names = choose_names(files, [lambda file: PurePosixPath(file).name, str])
    with replace_path(target) as aside:
        for i, file in enumerate(files):
            if predictions.status[i] == STATUS_PREDICTED:
                source, picture = picture_path(pictures, file), picture_path(aside / "pred", stems[i])
                if not source.is_file():
                    raise PredictionsError(f"the mask picture of {file} is missing", why=f"no file {source}")
                picture.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, picture)
        aside.mkdir(exist_ok=True)
        _write_labels(predictions, names, aside)


def _find_pictures(predictions: Predictions) -> Path:
    """Return the mask folder beside the predictions. Raises PredictionsError."""
    folder = predictions.path.parent / "masks" if predictions.path is not None else None
    if folder is None or not folder.is_dir():
        raise PredictionsError(
            "the run's mask pictures are missing",
            why=f"they should be in {folder or 'masks/'}, beside predictions.npz",
            hint="give the file in its run directory",
        )
    return folder


def _write_labels(predictions: Predictions, names: Sequence[str], target: Path) -> None:
    scores = predictions.image_scores
    if scores is None:
        return
    known = {name: float(score) for name, score in zip(names, scores.tolist(), strict=True) if not math.isnan(score)}
    if known:
        write_json(target / LABELS, known)


def _stem(file: str) -> str:
    path = PurePosixPath(file)
    return path.name if path.stem in (".", "..") else path.stem


def _path_without_extension(file: str) -> str:
    return str(PurePosixPath(file).parent / _stem(file))


def choose_names(files: Sequence[str], namings: Sequence[Callable[[str], str]]) -> list[str]:
    """Return a name for each file, all different: that of the first of the `namings` that sets it apart.

    The last naming gives different files different names. Files that share a name all get the next one, until none do.
    """
    levels = [0] * len(files)
    names = [namings[0](file) for file in files]
    while True:
        counts = Counter(names)
        shared = [i for i, name in enumerate(names) if counts[name] > 1 and levels[i] < len(namings) - 1]
        if not shared:
            return names
        for i in shared:
            levels[i] += 1
            names[i] = namings[levels[i]](files[i])
