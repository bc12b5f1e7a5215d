"""Export a manipulation run as IMDL-BenCo's script does: pred/<stem>.png, pred_label_combined.json.

Layout: https://github.com/scu-zjz/IMDLBenCo, test_save_images. Where two of its names would be equal (it overwrites one
file with the other), ours are paths.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from orchestrator.errors import PredictionsError
from orchestrator.predictions.output_names import (
    assign_paths,
    choose_names,
    fill_new_folder,
    picture_path,
    stem,
    without_extension,
)
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED
from orchestrator.system import write_json

LABELS = "pred_label_combined.json"


def export_imdlbenco(predictions: Predictions, target: Path) -> None:
    """Write to the folder `target` grey pictures of the probability, and image-level probabilities.

    Failed images are skipped. The predictions must be of a task with mask pictures. UsageError for a folder that is not
    empty; PredictionsError when a run's mask pictures are missing.
    """
    pictures = _find_pictures(predictions)
    # Failed images take part in naming, so that a failure never renames another image.
    files = predictions.files
    names = choose_names(files, [lambda file: PurePosixPath(file).name, str])
    with fill_new_folder(target) as folder:
        paths = assign_paths(folder / "pred", files, ".png", [stem, without_extension, str])
        for i, (file, picture) in enumerate(zip(files, paths, strict=True)):
            if predictions.status[i] == STATUS_PREDICTED:
                source = picture_path(pictures, file)
                if not source.is_file():
                    raise PredictionsError(f"the mask picture of {file} is missing", why=f"no file {source}")
                picture.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, picture)
        _write_labels(predictions, names, folder)


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
