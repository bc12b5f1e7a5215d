"""Export as a YOLO data set: data.yaml, and labels/<image>.txt with a polygon or a box per instance.

Layout: https://docs.ultralytics.com/datasets. A line is the index of the class, then x, y of corners, or centre, width
and height, as shares of the image's sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from orchestrator.predictions.outlines import join_outlines, outline_mask
from orchestrator.predictions.output_names import assign_paths, fill_new_folder
from orchestrator.predictions.predictions import Predictions, Record
from orchestrator.predictions.records import find_indices, note_empty_masks
from orchestrator.predictions.schema import STATUS_PREDICTED


def export_yolo(predictions: Predictions, target: Path) -> list[str]:
    """Write to the folder `target` polygons where the predictions have masks, else boxes; return notes.

    The parts and holes of a mask become one polygon, joined by lines without width. An image without instances has an
    empty file.
    """
    indices = find_indices(predictions)
    names = predictions.category_names
    empty = 0
    with fill_new_folder(target) as folder:
        paths = assign_paths(folder / "labels", predictions.files, ".txt")
        for record, path in zip(predictions, paths, strict=True):
            if record["status"] != STATUS_PREDICTED:
                continue
            shapes = _list_polygons(record) if predictions.has_masks else _list_boxes(record)
            empty += sum(shape is None for shape in shapes)
            lines = [
                " ".join([str(indices[category]), *(f"{value:.6g}" for value in shape.tolist())])
                for category, shape in zip(record["classes"].tolist(), shapes, strict=True)
                if shape is not None
            ]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        by_index = {index: names[category] for category, index in indices.items()}
        described = {"train": "images", "val": "images", "names": by_index, "category_ids": list(indices)}
        (folder / "data.yaml").write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), "utf-8")
    return note_empty_masks(empty)


def _list_polygons(record: Record) -> list[NDArray[np.float64] | None]:
    """Return x, y of each instance's corners as shares, None for an empty mask."""
    height, width = record["image_size"]
    polygons: list[NDArray[np.float64] | None] = []
    for mask in record["masks"]:
        outlines = outline_mask(mask)
        polygons.append((join_outlines(outlines) / (width, height)).ravel() if outlines else None)
    return polygons


def _list_boxes(record: Record) -> Sequence[NDArray[np.float64] | None]:
    """Return centre, width and height of each box as shares; what lies outside the image is cut off."""
    height, width = record["image_size"]
    corners = np.clip(record["boxes"].astype(np.float64) / (width, height, width, height), 0, 1)
    sides = corners[:, 2:] - corners[:, :2]
    return list(np.concatenate((corners[:, :2] + sides / 2, sides), axis=1))
