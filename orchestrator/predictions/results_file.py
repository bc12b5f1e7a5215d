"""Read COCO results JSON: a list of objects, each checked before anything is made of it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions import rle
from orchestrator.predictions.schema import FARTHEST, is_class


@dataclass(frozen=True)
class ResultsFile:
    """The results of one file. As in COCO's own code, the first one decides whether they have boxes and masks.

    Every method raises UsageError for a result that is not as it should be, by its number from 0.
    """

    path: Path
    entries: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> ResultsFile:
        try:
            entries = json.loads(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read the results {path}", why=error.strerror or str(error)) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the results {path} are not JSON", why=str(error)) from error
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            why = "it is not a list of objects"
            if isinstance(entries, dict) and "images" in entries:
                why = "it is a COCO data set; results are a list of {image_id, category_id, bbox, score}"
            raise UsageError(f"{path} does not hold COCO results", why=why)
        results = cls(path, entries)
        if entries and not (results.has_boxes or results.has_masks):
            why = f"the first one has neither bbox nor segmentation, but {', '.join(map(str, entries[0])) or 'nothing'}"
            raise UsageError(f"{path} does not hold results of boxes or masks", why=why)
        return results

    @property
    def has_boxes(self) -> bool:
        return not self.entries or self.entries[0].get("bbox") not in (None, [])

    @property
    def has_masks(self) -> bool:
        return bool(self.entries) and "segmentation" in self.entries[0]

    def find_images(self, index: Mapping[Any, int], annotations: Path) -> NDArray[np.int64]:
        """Return (N,) the index of each result's image."""
        image = np.zeros(len(self.entries), np.int64)
        for number, entry in enumerate(self.entries):
            value = entry.get("image_id")
            found = index.get(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
            if found is None:
                hint = "the annotations must be those of the results; orch export --annotations FILE writes their ids"
                raise self._refuse(number, f"{annotations} has no image with its image_id {value!r}", hint)
            image[number] = found
        return image

    def categories(self) -> NDArray[np.int64]:
        """Return (N,) the ids of categories."""
        category = np.zeros(len(self.entries), np.int64)
        for number, entry in enumerate(self.entries):
            value: Any = entry.get("category_id")
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if not is_class(value):
                raise self._refuse(number, f"its category_id is {value!r}, not a whole number of 32 bits")
            category[number] = value
        return category

    def scores(self) -> NDArray[np.float64]:
        """Return (N,) the scores, which are in [0, 1]."""
        scores = np.zeros(len(self.entries), np.float64)
        for number, entry in enumerate(self.entries):
            value: Any = entry.get("score")
            if not _is_number(value) or not 0 <= value <= 1:
                raise self._refuse(number, f"its score is {value!r}, not a number from 0 to 1")
            scores[number] = value
        return scores

    def boxes(self, order: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (n,4) corners x1, y1, x2, y2 of some results."""
        boxes = np.zeros((len(order), 4), np.float64)
        for row, number in enumerate(order.tolist()):
            value = self.entries[number].get("bbox")
            if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
                raise self._refuse(number, f"its bbox is {value!r}, not four numbers")
            if min(value[2:]) < 0 or max(map(abs, value)) > FARTHEST:
                raise self._refuse(number, f"its bbox is {value}: x, y, width and height in pixels, none below 0")
            boxes[row] = value
        boxes[:, 2:] += boxes[:, :2]
        return boxes.astype(np.float32)

    def masks(self, order: NDArray[np.int64], sizes: NDArray[np.int32]) -> list[bytes]:
        """Return the RLE counts of some results; `sizes` (n,2) are height and width of their images."""
        counts = []
        for number, size in zip(order.tolist(), sizes.tolist(), strict=True):
            given = self.entries[number].get("segmentation")
            encoded = _encode_counts(given.get("counts"), size) if isinstance(given, dict) else None
            if encoded is None:
                raise self._refuse(number, "its segmentation is not COCO's run lengths")
            if given.get("size") != size:
                fault = f"its segmentation is of size {given.get('size')}, its image of {size}"
                raise self._refuse(number, fault)
            counts.append(encoded)
        is_sound = rle.check_counts(counts, sizes)
        if not is_sound.all():
            first = int(np.argmin(is_sound))
            raise self._refuse(int(order[first]), _explain_fault(counts[first], sizes[first].tolist()))
        return counts

    def _refuse(self, number: int, fault: str, hint: str | None = None) -> UsageError:
        return UsageError(f"result {number} of {self.path} cannot be imported", why=fault, hint=hint)


def _encode_counts(counts: Any, size: list[int]) -> bytes | None:
    """Return compressed run lengths; None for what is no run lengths. Compressed ones are not checked yet."""
    if isinstance(counts, str):
        return counts.encode(errors="surrogatepass")
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        return None
    if sum(counts) != math.prod(size):
        return None
    values = np.arange(len(counts)) % 2 == 1
    return rle.encode(np.repeat(values, counts).reshape(size[1], size[0]).T)


def _explain_fault(counts: bytes, size: list[int]) -> str:
    try:
        rle.check(counts, size)
    except PredictionsError as error:
        return error.why or error.message
    return "its run lengths are malformed"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
