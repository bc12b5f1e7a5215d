"""LVIS's federated rules: in each image only some categories were looked for, and only those count.

As the package `lvis` computes them: the best 300 detections of an image; of these only the categories that are
annotated in the image or listed in its `neg_category_ids`; and no wrong detections of those in
`not_exhaustive_category_ids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.predictions import Predictions

MAX_PER_IMAGE = 300
ABSENT, PARTIAL = "neg_category_ids", "not_exhaustive_category_ids"
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
LARGE = 1000  # categories; COCO has 80, LVIS 1203: nobody looks for so many in every image
LVIS_FILES = "give LVIS's own annotation file, for example lvis_v1_val.json"


@dataclass(frozen=True)
class Federation:
    """What was looked for in each of I images, by ids of categories.

    `absent`: looked for and not there. `partial`: annotated, but not every instance. `frequency` has the key in
    FREQUENCIES of each category that has one: in how many training images it occurs.
    """

    absent: Sequence[frozenset[int]]
    partial: Sequence[frozenset[int]]
    frequency: dict[int, str]

    def keep_images(self, images: NDArray[np.bool_]) -> Federation:
        """Return what is known of the images selected by `images` (I,)."""
        kept = np.flatnonzero(images).tolist()
        return replace(self, absent=[self.absent[n] for n in kept], partial=[self.partial[n] for n in kept])


def read_federation(dataset: dict[str, Any], images: list[dict[str, Any]], path: Path) -> Federation | None:
    """Return the federated fields of an annotation file with `images` in this order, None if it has none.

    UsageError when only some images have them, or when categories have LVIS's frequencies and no image has them:
    COCO's rules would count detections as wrong that nobody checked.
    """
    frequency = {
        category["id"]: category["frequency"]
        for category in dataset["categories"]
        if category.get("frequency") in tuple(FREQUENCIES)
    }
    without = [image for image in images if not all(_is_id_list(image.get(key)) for key in (ABSENT, PARTIAL))]
    if images and len(without) == len(images) and not any(ABSENT in image or PARTIAL in image for image in images):
        if dataset["categories"] and len(frequency) == len(dataset["categories"]):
            why = f"its categories have LVIS's frequencies, but its images have no {ABSENT} and {PARTIAL}"
            raise UsageError(f"the annotations {path} cannot be scored by LVIS's rules", why=why, hint=LVIS_FILES)
        return None
    if without:
        why = f"{len(without)} of {len(images)} images have no lists of ids {ABSENT} and {PARTIAL}; "
        why += f"the first is {without[0]['file_name']!r}"
        raise UsageError(f"the annotations {path} cannot be scored by LVIS's rules", why=why, hint=LVIS_FILES)
    if not images:
        return None
    for annotation in dataset["annotations"]:
        if annotation.get("iscrowd") or annotation.get("ignore"):
            why = f"annotation {annotation['id']} is a crowd region or ignored, which these rules do not have"
            raise UsageError(f"the annotations {path} cannot be scored by LVIS's rules", why=why)
    absent, partial = ([frozenset(image[key]) for image in images] for key in (ABSENT, PARTIAL))
    return Federation(absent, partial, frequency)


def _is_id_list(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


def make_keys(ids: Sequence[frozenset[int]], categories: Sequence[int]) -> NDArray[np.int64]:
    """Return image · K + category for lists of ids by image; `categories` are all K ids in ascending order."""
    indices = {number: index for index, number in enumerate(categories)}
    width = len(categories)
    keys = [image * width + indices[number] for image, numbers in enumerate(ids) for number in numbers & indices.keys()]
    return np.array(keys, np.int64)


def note_rules(federation: Federation | None, categories: int, predictions: Predictions, counted: int) -> list[str]:
    """Return notes on the rules that decide what counts: of `predictions`, `counted` instances do."""
    if federation is None:
        how = f"{categories} categories and no {ABSENT}: scored by COCO's rules, as if every image was searched for all"
        return [how] if categories >= LARGE else []
    rules = f"scored by LVIS's rules: {counted} of {len(predictions.scores)} instances count, those of categories that "
    notes = [f"{rules}were looked for in their image, the best {MAX_PER_IMAGE} of an image"]
    limit = predictions.meta.get("max_detections")
    if isinstance(limit, int) and limit < MAX_PER_IMAGE:
        notes.append(f"the run kept at most {limit} instances of an image, LVIS counts {MAX_PER_IMAGE}")
    return notes
