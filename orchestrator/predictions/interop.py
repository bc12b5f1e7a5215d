"""Convert predictions to objects of pandas and supervision, which are optional: orch[notebook]."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import MachineError
from orchestrator.predictions import rle

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

Predictions = Any
"""`orchestrator.predictions.predictions.Predictions`: that module imports this module."""


def to_pandas(predictions: Predictions) -> pd.DataFrame:
    """Return the table of `Predictions.to_pandas`; `area` is the mask's or, without masks, the box's."""
    pandas = import_optional("pandas")
    names = _names(predictions)
    counts = np.diff(predictions.offsets)
    boxes = predictions.boxes
    areas = _areas(predictions)
    columns: dict[str, Any] = {
        "image_file": np.repeat(predictions.image_file, counts),
        "image_id": np.repeat(predictions.image_id, counts),
        "category": predictions.classes,
        "name": [names.get(number, str(number)) for number in predictions.classes.tolist()],
        "score": predictions.scores,
        **{side: boxes[:, index] for index, side in enumerate(("x1", "y1", "x2", "y2"))},
        "area": areas,
    }
    attributes = predictions.attributes
    if attributes is not None:
        titles = predictions.meta.get("attribute_names") or [f"attribute {n}" for n in range(attributes.shape[1])]
        columns |= {str(title): attributes[:, index] for index, title in enumerate(titles)}
    return pandas.DataFrame(columns)


def to_supervision(predictions: Predictions, image: int | str) -> sv.Detections:
    """Return the detections of `Predictions.to_supervision`.

    Masks are (n, height, width); the names of categories are in data["class_name"].
    """
    supervision = import_optional("supervision")
    record = predictions[image]
    names = _names(predictions)
    height, width = record["image_size"]
    masks: NDArray[np.bool_] | None = None
    if predictions.has_masks:
        masks = np.zeros((len(record["scores"]), height, width), bool)
        for index, mask in enumerate(record["masks"]):
            masks[index] = rle.decode(mask["counts"], mask["size"])
    classes = record["classes"].astype(np.int64)
    return supervision.Detections(
        xyxy=record["boxes"].astype(np.float64).reshape(-1, 4),
        mask=masks,
        confidence=record["scores"].astype(np.float64),
        class_id=classes,
        data={"class_name": np.array([names.get(number, str(number)) for number in classes.tolist()], str)},
    )


def _areas(predictions: Predictions) -> NDArray[Any]:
    if predictions.has_masks:
        rows = range(len(predictions.scores))
        return np.array([rle.count_pixels(predictions.counts(row)) for row in rows], np.int64)
    corners = np.asarray(predictions.boxes)
    sides: NDArray[Any] = corners[:, 2:] - corners[:, :2]
    return np.asarray(sides.prod(axis=1))


def _names(predictions: Predictions) -> dict[int, str]:
    return {int(entry["id"]): str(entry["name"]) for entry in predictions.meta.get("categories", [])}


def import_optional(name: str) -> Any:
    """Return a module of a library that orch can do without. MachineError where it is not installed."""
    library = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MachineError(f"{library} is not installed", why=str(error), hint=f"pip install {library}") from error
