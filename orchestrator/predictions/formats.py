"""The formats that predictions can be written in: one table, and what each format can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.catalog import name_tasks_with_pictures, task_of
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions.export import export_coco, export_fashionfail
from orchestrator.predictions.export_cvat import export_cvat
from orchestrator.predictions.export_imdlbenco import export_imdlbenco
from orchestrator.predictions.export_labelme import export_labelme
from orchestrator.predictions.export_parquet import export_parquet
from orchestrator.predictions.export_voc import export_voc
from orchestrator.predictions.export_yolo import export_yolo
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import PAIRED, STATUS_FAILED
from orchestrator.system import unknown_name

MASKS = "masks"
PICTURES = "mask pictures"  # of a run whose task has them, beside its predictions


@dataclass(frozen=True)
class Format:
    """A format: how it is written, and what of predictions it can hold.

    `write(predictions, target)` returns None or notes on what it left out. `ending` is that of the default name, a
    folder's where it has no dot. `holds` are some of masks, scores, attributes and image_scores; `needs` is what the
    predictions must have. Formats that can use the image ids of annotations take their path as third argument.
    """

    name: str
    write: Callable[..., list[str] | None]
    ending: str
    holds: str
    needs: str | None = None
    takes_annotations: bool = False

    @property
    def is_folder(self) -> bool:
        return "." not in self.ending


FORMATS_WRITTEN: dict[str, Format] = {
    one.name: one
    for one in (
        Format("coco", export_coco, "-coco.json", "masks scores", takes_annotations=True),
        Format("yolo", export_yolo, "-yolo", "masks"),
        Format("labelme", export_labelme, "-labelme", "masks scores"),
        Format("cvat", export_cvat, "-cvat.xml", "masks scores"),
        Format("voc", export_voc, "-voc", "scores"),
        Format("parquet", export_parquet, ".parquet", "masks scores attributes"),
        Format("fashionfail", export_fashionfail, "-fashionfail.npz", "masks scores attributes", needs=MASKS),
        Format("imdlbenco", export_imdlbenco, "-imdlbenco", "masks scores image_scores", needs=PICTURES),
    )
}


def get_format(name: str) -> Format:
    """Return the format of that name. Raises UsageError."""
    if name not in FORMATS_WRITTEN:
        raise unknown_name("format", name, FORMATS_WRITTEN)
    return FORMATS_WRITTEN[name]


def export_predictions(
    predictions: Predictions, name: str, target: Path, annotations: Path | None = None, boxes_only: bool = False
) -> list[str]:
    """Write predictions in a format; return what was left out, a phrase each.

    `boxes_only` leaves out masks. UsageError when the format cannot use `annotations`, cannot hold the masks, or is
    for another task; PredictionsError when the predictions lack what it needs.
    """
    chosen = get_format(name)
    if annotations is not None and not chosen.takes_annotations:
        able = ", ".join(one.name for one in FORMATS_WRITTEN.values() if one.takes_annotations)
        raise UsageError(f"the format {name} cannot use annotations", why=f"of all formats only {able} can")
    if boxes_only:
        kept = {key: predictions.arrays[key] for key in predictions.arrays if key not in PAIRED}
        predictions = Predictions(kept, predictions.path)
    _check_needs(chosen, predictions, boxes_only)
    lost = _find_losses(chosen, predictions)
    notes = chosen.write(predictions, target, *([annotations] if annotations is not None else []))
    return [*lost, *(notes or ())]


def _check_needs(chosen: Format, predictions: Predictions, boxes_only: bool) -> None:
    what = predictions.path or "these predictions"
    if chosen.needs == PICTURES and not task_of(predictions.meta).has_pictures:
        raise UsageError(
            f"the format {chosen.name} is for {name_tasks_with_pictures()}",
            why=f"these predictions are {predictions.meta.get('task')}",
            hint="orch export FILE --format coco",
        )
    if boxes_only and chosen.needs:
        raise UsageError(f"the format {chosen.name} cannot be written without masks", hint="leave out --boxes")
    if chosen.needs == MASKS and predictions.is_boxes_only:
        why = f"the format {chosen.name} needs them"
        hint = "orch export FILE --format coco"
        raise PredictionsError(f"{what} have no masks", why=why, hint=hint)
    if predictions.has_masks and MASKS not in chosen.holds and len(predictions.scores):
        raise UsageError(
            f"the format {chosen.name} cannot hold masks",
            why=f"the {len(predictions.scores)} instances of {what} have masks",
            hint=f"orch export FILE --format {chosen.name} --boxes writes their boxes only",
        )


def _find_losses(chosen: Format, predictions: Predictions) -> list[str]:
    """Return what the predictions have and the format cannot hold; masks are refused before."""
    present: dict[str, Any] = {
        "scores": predictions.scores,
        "attributes": predictions.attributes,
        "image_scores": predictions.image_scores,
    }
    holds = chosen.holds.split()
    lost = [
        key.replace("_", " ")
        for key, array in present.items()
        if key not in holds and array is not None and array.size and not np.isnan(array).all()
    ]
    failed = int((predictions.status == STATUS_FAILED).sum())
    return [*lost, *([f"{failed} failed {'image' if failed == 1 else 'images'}"] if failed else [])]
