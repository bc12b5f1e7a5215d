"""Export as LabelMe's JSON files, one per image: polygons, masks where a polygon cannot be one, or rectangles.

Layout: https://github.com/wkentaro/labelme. The files find their images when they are copied beside them.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions.outlines import crop_mask, is_hole, outline_mask
from orchestrator.predictions.output_names import assign_paths, fill_new_folder
from orchestrator.predictions.predictions import Predictions, Record
from orchestrator.predictions.records import find_names, note_empty_masks
from orchestrator.predictions.schema import STATUS_PREDICTED
from orchestrator.system import json_bytes

VERSION = "5.5.0"  # of LabelMe; its files have had masks since 5.3


def export_labelme(predictions: Predictions, target: Path) -> list[str]:
    """Write to the folder `target` a file for each predicted image, below the image's own folders; return notes.

    A mask with several parts is polygons of one group, a mask with holes a shape of type "mask". Each shape has the
    additional field "score".
    """
    names = find_names(predictions, "labelme")
    empty = 0
    with fill_new_folder(target) as folder:
        paths = assign_paths(folder, predictions.files, ".json")
        for record, path in zip(predictions, paths, strict=True):
            if record["status"] != STATUS_PREDICTED:
                continue
            shapes: list[dict[str, Any]] = []
            for row, category in enumerate(record["classes"].tolist()):
                found = _list_shapes(record, row)
                empty += not found
                common = {"label": names[category], "score": float(record["scores"][row])}
                group = row + 1 if len(found) > 1 else None
                shapes += [{**common, "group_id": group, **shape, "description": "", "flags": {}} for shape in found]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(json_bytes(_describe_image(record, shapes)))
    return note_empty_masks(empty)


def _describe_image(record: Record, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    height, width = record["image_size"]
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": PurePosixPath(record["image_file"]).name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _list_shapes(record: Record, row: int) -> list[dict[str, Any]]:
    """Return the shapes of an instance; none for an empty mask."""
    if "masks" not in record:
        box = record["boxes"][row].astype(np.float64).tolist()
        return [{"shape_type": "rectangle", "points": [box[:2], box[2:]], "mask": None}]
    outlines = outline_mask(record["masks"][row])
    if any(map(is_hole, outlines)):
        cropped, left, upper = crop_mask(record["masks"][row])
        height, width = cropped.shape
        corners = [[left, upper], [left + width - 1, upper + height - 1]]  # both are in the mask
        return [{"shape_type": "mask", "points": corners, "mask": _encode_picture(cropped)}]
    return [{"shape_type": "polygon", "points": outline.tolist(), "mask": None} for outline in outlines]


def _encode_picture(mask: NDArray[np.bool_]) -> str:
    """Return a mask as a PNG in base64."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
