"""What several export formats need of predictions: numbers and names of categories, text that they can hold."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from orchestrator.errors import PredictionsError
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.schema import STATUS_PREDICTED

_NOT_IN_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def find_indices(predictions: Predictions) -> dict[int, int]:
    """Return the number from 0 of each category, in the order of meta, once the values are such as formats can hold.

    PredictionsError where an instance is of another category, a box or score is not finite, a box ends before it
    begins, or a predicted image has no size.
    """
    indices = {category: index for index, category in enumerate(predictions.category_names)}
    unknown = [category for category in np.unique(predictions.classes).tolist() if category not in indices]
    boxes, sizes = predictions.boxes, predictions.image_size[predictions.status == STATUS_PREDICTED]
    fault = None
    if unknown:
        fault = f"category {unknown[0]} of an instance is not in meta"
    elif not (np.isfinite(boxes).all() and np.isfinite(predictions.scores).all()):
        fault = "a box or score is not finite"
    elif (boxes[:, 2:] < boxes[:, :2]).any():
        fault = "a box ends before it begins"
    elif (sizes <= 0).any():
        fault = "a predicted image has no size"
    if fault:
        raise PredictionsError(fault, hint=f"orch validate {predictions.path or 'FILE'}")
    return indices


def find_names(predictions: Predictions, format_name: str) -> dict[int, str]:
    """Return the names of categories, for a format that knows no numbers. PredictionsError where two are equal."""
    find_indices(predictions)
    names = predictions.category_names
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        numbers = " and ".join(str(number) for number, name in names.items() if name == twice[0])
        raise PredictionsError(
            f"the categories {numbers} have the same name {twice[0]!r}",
            why=f"the format {format_name} tells categories apart by name",
            hint="--format coco or yolo, which have numbers",
        )
    return names


def require_xml(text: str) -> str:
    """Return a text that XML can hold. Raises PredictionsError."""
    if _NOT_IN_XML.search(text):
        raise PredictionsError(
            f"XML cannot hold the name {text!r}",
            why="it has a control character, or is not UTF-8",
            hint="rename the image, or --format labelme or coco",
        )
    return text


def note_empty_masks(count: int) -> list[str]:
    """Return the note on instances that were left out because their masks have no pixel."""
    return [f"{count} {'instance' if count == 1 else 'instances'} with an empty mask"] if count else []
