"""The attributes of an annotation file, as Fashionpedia stores them: a list `attributes`, and `attribute_ids`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttributeTruth:
    """A attributes by ascending id, and `values` (N,A): which of N annotations has which.

    `fault` says why the file's attributes cannot be used; `values` are then meaningless.
    """

    names: dict[int, str]
    values: NDArray[np.bool_]
    fault: str | None = None

    def keep(self, annotations: NDArray[np.bool_]) -> AttributeTruth:
        """Return the attributes of the annotations selected by `annotations` (N,)."""
        return replace(self, values=self.values[annotations])


def read_attributes(dataset: dict[str, Any], annotations: list[dict[str, Any]]) -> AttributeTruth | None:
    """Return the attributes of `annotations`, None if the file has none; an annotation without a list has none."""
    listed = dataset.get("attributes")
    if not isinstance(listed, list) or not listed or not any("attribute_ids" in entry for entry in annotations):
        return None
    if not all(_is_attribute(entry) for entry in listed):
        return _refuse(annotations, "an entry of its list 'attributes' has no integer id or no name")
    names = {entry["id"]: entry["name"] for entry in sorted(listed, key=lambda entry: int(entry["id"]))}
    if len(names) < len(listed):
        return _refuse(annotations, "two entries of its list 'attributes' have one id")
    indices = {number: index for index, number in enumerate(names)}
    values = np.zeros((len(annotations), len(names)), bool)
    for row, annotation in enumerate(annotations):
        ids = annotation.get("attribute_ids", [])
        if not isinstance(ids, list) or not all(type(number) is int and number in indices for number in ids):
            fault = f"the attribute_ids of annotation {annotation['id']} are not ids of its list 'attributes'"
            return _refuse(annotations, fault)
        values[row, [indices[number] for number in ids]] = True
    return AttributeTruth(names, values)


def _is_attribute(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("name"), str)


def _refuse(annotations: list[dict[str, Any]], fault: str) -> AttributeTruth:
    return AttributeTruth({}, np.zeros((len(annotations), 0), bool), fault)
