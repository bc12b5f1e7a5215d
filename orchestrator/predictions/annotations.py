"""Read COCO annotation files, and find the images of predictions in them."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.inputs import is_image_id, name_image
from orchestrator.predictions.predictions import Predictions, make_id_array

SHOWN = 5  # names listed in an error
_ID = None  # in a table of fields: whatever can be an id


def read_annotations(path: Path) -> dict[str, Any]:
    """Read a COCO annotation file. UsageError when it is missing or not one.

    Of the annotations it is checked only that they are objects: one bad annotation need not refuse the file.
    """
    try:
        dataset = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the annotations {path}", why=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the annotations {path} are not JSON", why=str(error)) from error
    tables: dict[str, dict[str, type | None]] = {
        "images": {"id": _ID, "file_name": str},
        "annotations": {},
        "categories": {"id": int, "name": str},
    }
    _name_images(dataset)
    for key, fields in tables.items():
        fault = _find_fault(dataset, key, fields)
        if fault:
            raise UsageError(f"the annotations {path} are not in COCO's format", why=fault)
    return dict(dataset)


def _name_images(dataset: Any) -> None:
    """Give images without `file_name` the name in their `coco_url`; those of LVIS have no other."""
    images = dataset.get("images") if isinstance(dataset, dict) else None
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
            image["file_name"] = name_image(image)


def _find_fault(dataset: Any, key: str, fields: dict[str, type | None]) -> str | None:
    entries = dataset.get(key) if isinstance(dataset, dict) else None
    if not isinstance(entries, list):
        return f"it has no list {key!r}"
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            return f"{key}[{index}] is not an object"
        for field, kind in fields.items():
            value = entry.get(field)
            if kind is _ID:
                if not is_image_id(value):
                    return f"{key}[{index}] has no {field} that is a number or a text"
            elif not isinstance(value, kind) or isinstance(value, bool):
                return f"{key}[{index}] has no {field} of type {kind.__name__}"
    return None


def match_images(predictions: Predictions, dataset: dict[str, Any], source: Path) -> NDArray[Any]:
    """Return (I,) the annotations' id of each image, int64 or objects, found by relative path, else by base name.

    A base name counts only when it is unique on both sides. PredictionsError names images without a match.
    """
    indices = find_images(predictions.files, [image["file_name"] for image in dataset["images"]])
    unmatched = [file for file, index in zip(predictions.files, indices.tolist(), strict=True) if index < 0]
    if unmatched:
        names = ", ".join(unmatched[:SHOWN]) + (", …" if len(unmatched) > SHOWN else "")
        raise PredictionsError(
            f"{len(unmatched)} of {len(predictions)} images are not in {source}: {names}",
            why="neither their relative path nor a base name that is unique on both sides matches",
            hint="give the annotations of the images that were predicted",
        )
    return make_id_array([dataset["images"][index]["id"] for index in indices.tolist()])


def find_images(files: Sequence[str], annotated: Sequence[str]) -> NDArray[np.int64]:
    """Return (I,) the index of each of `files` among the annotated file names, -1 if it is not there.

    A file is found by its whole path, else by a base name that is unique on both sides; last, by both in `plain_name`'s
    form, where that is unique on both sides too.
    """
    indices = _find_by_name(files, annotated)
    is_open = indices < 0
    if is_open.any():
        plain = _find_by_name(list(map(plain_name, files)), list(map(plain_name, annotated)))
        indices[is_open] = np.where(np.isin(plain, indices), -1, plain)[is_open]
    return indices


def plain_name(name: str) -> str:
    """Return a file name without differences of form: composed or decomposed letters, case, "./", backslashes."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./")).casefold()


def _find_by_name(files: Sequence[str], annotated: Sequence[str]) -> NDArray[np.int64]:
    by_path, paths = _index_unique(annotated), Counter(files)
    by_base = _index_unique([_base(name) for name in annotated])
    bases = Counter(map(_base, files))
    indices = np.full(len(files), -1, np.int64)
    for i, file in enumerate(files):
        index = by_path.get(file) if paths[file] == 1 else None
        if index is None and bases[_base(file)] == 1:
            index = by_base.get(_base(file))
        indices[i] = -1 if index is None else index
    return indices


def _base(file: str) -> str:
    return PurePosixPath(file).name


def _index_unique(names: Sequence[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}
