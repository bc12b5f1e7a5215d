"""COCO annotation files: reading them, and finding the images of predictions in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions.predictions import Predictions

SHOWN = 5  # names listed in an error


def read_annotations(path: Path) -> dict[str, Any]:
    """A COCO annotation file; UsageError when it is missing or none."""
    try:
        dataset = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the annotations {path}", why=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the annotations {path} are not JSON", why=str(error)) from error
    for key, fields in (
        ("images", {"id": int, "file_name": str}),
        ("annotations", {"id": int, "image_id": int, "category_id": int, "bbox": list}),
        ("categories", {"id": int, "name": str}),
    ):
        fault = _fault(dataset, key, fields)
        if fault:
            raise UsageError(f"the annotations {path} are not in COCO's format", why=fault)
    return dict(dataset)


def _fault(dataset: Any, key: str, fields: dict[str, type]) -> str | None:
    entries = dataset.get(key) if isinstance(dataset, dict) else None
    if not isinstance(entries, list):
        return f"there is no list {key!r}"
    for place, entry in enumerate(entries):
        for field, kind in fields.items():
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                return f"{key}[{place}] has no {field} of type {kind.__name__}"
    return None


def match_images(predictions: Predictions, dataset: dict[str, Any], source: Path) -> NDArray[np.int64]:
    """(I,) the annotations' id of each image, found by its whole relative path or else by its base name.

    A base name counts only when it is unique on both sides. PredictionsError names images without a match.
    """
    places = find_images(predictions.files, [image["file_name"] for image in dataset["images"]])
    unmatched = [file for file, place in zip(predictions.files, places.tolist(), strict=True) if place < 0]
    if unmatched:
        names = ", ".join(unmatched[:SHOWN]) + (", …" if len(unmatched) > SHOWN else "")
        raise PredictionsError(
            f"{len(unmatched)} of {len(predictions)} images are not in {source}: {names}",
            why="neither their relative path nor a base name that is unique on both sides is there",
            hint="give the annotations of the images that were predicted",
        )
    return np.array([image["id"] for image in dataset["images"]], np.int64)[places]


def find_images(files: Sequence[str], annotated: Sequence[str]) -> NDArray[np.int64]:
    """(I,) where each of `files` is among the annotated file names: by its whole path, else by a base name that is
    unique on both sides; -1 where it is not."""
    by_path = _unique((name, place) for place, name in enumerate(annotated))
    by_base = _unique((_base(name), place) for place, name in enumerate(annotated))
    bases = Counter(map(_base, files))
    places = np.full(len(files), -1, np.int64)
    for i, file in enumerate(files):
        found = by_path.get(file)
        if found is None and bases[_base(file)] == 1:
            found = by_base.get(_base(file))
        places[i] = -1 if found is None else found
    return places


def _base(file: str) -> str:
    return PurePosixPath(file).name


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The pairs as a mapping, without keys that occur more than once."""
    found: dict[str, int | None] = {}
    for key, value in pairs:
        found[key] = None if key in found else value
    return {key: value for key, value in found.items() if value is not None}
