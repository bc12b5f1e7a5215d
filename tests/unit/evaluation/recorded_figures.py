"""Data sets of boxes, figures that other projects' own evaluation code gave for them, and predictions from boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import META, Arrays, box_mask, digests

KEPT = Path(__file__).parent / "kept"


def read_sets(name: str) -> list[dict[str, Any]]:
    """Return the data sets of a kept file: truth, results, and for bbox and segm the other project's figures."""
    sets: list[dict[str, Any]] = json.loads((KEPT / name).read_text(encoding="utf-8"))["sets"]
    return sets


def write_truth(folder: Path, truth: dict[str, Any]) -> Path:
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    return path


def make_arrays(truth: dict[str, Any], results: Sequence[dict[str, Any]], **meta: Any) -> Arrays:
    """Return predictions of a COCO data set's images from results with bbox; each mask fills its box.

    Where the truth has attributes, those in `attribute_ids` score 0.9, the others 0.5.
    """
    images = truth["images"]
    found = [sorted(_of(results, image), key=lambda one: -one["score"]) for image in images]
    rows = [one for part in found for one in part]
    sizes = [(image["height"], image["width"]) for image, part in zip(images, found, strict=True) for _ in part]
    boxes = np.array([one["bbox"] for one in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [
        rle.encode(box_mask(size, tuple(box))) for size, box in zip(sizes, boxes.astype(int).tolist(), strict=True)
    ]
    files = [image["file_name"] for image in images]
    names = [entry["name"] for entry in truth.get("attributes", [])]
    own = {**META, "max_detections": None, "categories": truth["categories"], "attribute_names": names, **meta}
    arrays: Arrays = {
        "image_file": np.array(files),
        "image_sha256": digests(files),
        "image_size": np.array([(image["height"], image["width"]) for image in images], np.int32),
        "status": np.zeros(len(files), np.uint8),
        "error": np.zeros(len(files), "U1"),
        "offsets": np.cumsum([0, *map(len, found)], dtype=np.int64),
        "boxes": boxes,
        "classes": np.array([one["category_id"] for one in rows], np.int32),
        "scores": np.array([one["score"] for one in rows], np.float32),
        "masks": np.frombuffer(b"".join(masks), np.uint8).copy(),
        "mask_offsets": np.cumsum([0, *map(len, masks)], dtype=np.int64),
    }
    if names:
        arrays["attributes"] = _score_attributes(truth, rows)
    else:
        del own["attribute_names"]
    return {**arrays, "meta": np.array(json.dumps(own))}


def make_predictions(truth: dict[str, Any], results: Sequence[dict[str, Any]], **meta: Any) -> Predictions:
    return Predictions(make_arrays(truth, results, **meta))


def _of(results: Sequence[dict[str, Any]], image: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in results if one["image_id"] == image["id"]]


def _score_attributes(truth: dict[str, Any], rows: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    ids = [entry["id"] for entry in truth["attributes"]]
    has = np.array([[number in one["attribute_ids"] for number in ids] for one in rows], bool).reshape(-1, len(ids))
    return np.where(has, np.float32(0.9), np.float32(0.5))
