"""COCO results of a predictions file of any size: its arrays are read side by side, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.predictions.npz import Arrays

CHUNK = 1 << 20  # bytes of each array held at a time


def coco_results(
    arrays: Arrays, sizes: NDArray[np.int32], offsets: NDArray[np.int64], ids: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    """One result an instance, in the order of the file: bbox as x, y, width, height, counts as str.

    `sizes` (I,2), `offsets` (I+1,) and `ids` (I,) are those of the images. PredictionsError when an array ends too
    early, or the masks are not where `mask_offsets` says.
    """
    rows = {name: _Rows(arrays, name) for name in ("boxes", "classes", "scores", "mask_offsets", "masks")}
    at = _start(rows["mask_offsets"].take(1), arrays)
    for image in range(len(sizes)):
        size, count = sizes[image].tolist(), int(offsets[image + 1] - offsets[image])
        corners = rows["boxes"].take(count).astype(np.float64)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1).tolist()
        classes, scores = rows["classes"].take(count).tolist(), rows["scores"].take(count).tolist()
        cuts = rows["mask_offsets"].take(count).tolist()
        for box, category, score, cut in zip(boxes, classes, scores, cuts, strict=True):
            if cut < at:
                raise _broken(arrays, "mask_offsets do not ascend")
            counts = rows["masks"].take(cut - at).tobytes().decode("latin-1")
            at = cut
            yield {
                "image_id": int(ids[image]),
                "category_id": category,
                "bbox": box,
                "score": score,
                "segmentation": {"size": size, "counts": counts},
            }
    for name, one in rows.items():
        if one.left():
            raise _broken(arrays, f"{name} goes on after the last instance")


def _start(first: NDArray[np.int64], arrays: Arrays) -> int:
    if first[0] != 0:
        raise _broken(arrays, "mask_offsets do not start at 0")
    return 0


class _Rows:
    """An array from its first row to its last, in portions of any length."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        self._arrays = arrays
        self._name = name
        self._chunks = arrays.chunks(name, CHUNK)
        header = arrays.header(name)
        self._kept: NDArray[Any] = np.zeros((0, *header.shape[1:]), header.dtype)
        self._at = 0

    def take(self, count: int) -> NDArray[Any]:
        """The next rows; PredictionsError when there are not so many."""
        while len(self._kept) - self._at < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise _broken(self._arrays, f"{self._name} ends too early")
            self._kept = np.concatenate((self._kept[self._at :], chunk))
            self._at = 0
        part = self._kept[self._at : self._at + count]
        self._at += count
        return part

    def left(self) -> bool:
        """Whether there is more. Reads to the end, which makes the checksum be compared."""
        return len(self._kept) > self._at or next(self._chunks, None) is not None


def _broken(arrays: Arrays, why: str) -> PredictionsError:
    hint = f"orch validate {arrays.path}"
    return PredictionsError(f"{arrays.path} is not a valid predictions file", why=why, hint=hint)
