"""`Predictions`: the standard predictions file, read array by array and checked."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.catalog import task_of
from orchestrator.errors import PredictionsError
from orchestrator.inputs import ImageId, is_image_id
from orchestrator.predictions import interop, rle
from orchestrator.predictions.coco_results import Rows, iterate_results, read_rows
from orchestrator.predictions.npz import Arrays, Header, KeptArrays, RowReader, open_arrays
from orchestrator.predictions.schema import FORMAT, FORMATS, PAIRED, SPECS, ArraySpec, Problem, specs_of
from orchestrator.predictions.validation import find_problems

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

CHUNK = 1 << 20  # bytes of each array held while COCO results are made
_INT64_END = 1 << 63

Record = dict[str, Any]


def make_id_array(ids: Sequence[ImageId]) -> NDArray[Any]:
    """Return (I,) ids: int64, or objects where some id is no such number."""
    if all(type(value) is int and -_INT64_END <= value < _INT64_END for value in ids):
        return np.array(ids, np.int64)
    array = np.empty(len(ids), object)
    array[:] = ids
    return array


class Predictions:
    """Predictions by image. Arrays are read at the first use, checked, and kept.

    `predictions[i]`, by index or file name, is the record of an image: image_file, image_size, boxes,
    classes, scores, status, error, and masks, image_id, image_sha256, attributes, image_score where the file has them.
    Files of format orch-predictions/1 and /2 are read alike.
    PredictionsError at the first use of a broken array.
    """

    def __init__(self, arrays: Arrays | Mapping[str, NDArray[Any]], path: Path | None = None) -> None:
        self.arrays = KeptArrays(arrays)
        self.path = path
        self._kept: dict[str, NDArray[Any]] = {}
        self._mask_areas: NDArray[np.int64] | None = None

    @classmethod
    def load(cls, path: Path | str) -> Predictions:
        """Open a predictions file. UsageError when it does not exist, PredictionsError when it is not one."""
        arrays = open_arrays(Path(path))
        predictions = cls(arrays, Path(path))
        if predictions.meta.get("format") not in FORMATS:
            raise predictions._broken(f"its format is {predictions.meta.get('format')!r}, not {FORMAT!r}")
        return predictions

    def __len__(self) -> int:
        return len(self.image_file)

    def __getitem__(self, index: int | str) -> Record:
        i = self.index(index) if isinstance(index, str) else operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        return self._record(i % len(self))

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, range(len(self)))

    def index(self, file: str) -> int:
        """Return the index of an image file. Raises KeyError."""
        return self._indices[file]

    def rows(self, image: int) -> slice:
        """Return the rows of an image's instances."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    @property
    def has_masks(self) -> bool:
        """Whether instances have masks; those of a detector have only boxes."""
        return any(name in self.arrays for name in PAIRED)

    @property
    def is_boxes_only(self) -> bool:
        """Whether the model gives no masks: its task has none, or there are instances without."""
        return not self.has_masks and (len(self.scores) > 0 or not task_of(self.meta).has_masks)

    def counts(self, row: int) -> bytes:
        """Return the RLE counts of an instance's mask; PredictionsError without masks."""
        return self.masks[int(self.mask_offsets[row]) : int(self.mask_offsets[row + 1])].tobytes()

    def mask(self, row: int) -> NDArray[np.bool_]:
        """Return an instance's mask (height, width); PredictionsError when its counts are broken."""
        row = operator.index(row)
        if not 0 <= row < len(self.scores):
            raise IndexError(f"row {row} of {len(self.scores)}")
        image = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return rle.decode(self.counts(row), self.image_size[image].tolist())

    def validate(self, limit: int = 20, with_masks: bool = True) -> list[Problem]:
        """Return everything in which the file breaks the format, at most `limit` problems of each kind.

        Masks that are not in memory yet are checked piece by piece. With `with_masks` False they are not looked at.
        """
        problems, self._mask_areas = find_problems(self.arrays, limit, with_masks)
        return problems

    def to_coco(self, image_ids: NDArray[Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield COCO results (bbox as x, y, width, height; counts as str) in the order of the rows.

        Without masks there is no "segmentation".
        `image_ids` (I,) replaces the file's own image_id, or the number from 1 where it has none. Arrays are read side
        by side, CHUNK bytes at a time. PredictionsError when one ends too early or the masks are not where
        `mask_offsets` says.
        """
        ids = self.image_id if image_ids is None else image_ids
        return iterate_results(self.read_rows(), ids.tolist(), self.image_size.tolist())

    def read_rows(self) -> Iterator[Rows]:
        """Yield the instances, some at a time, without keeping them; errors as those of `to_coco`."""
        names = ("boxes", "classes", "scores", *(("mask_offsets", "masks") if self.has_masks else ()))
        readers = {name: self._reader(name) for name in names}
        offsets = self._offsets("offsets", len(self.image_size), readers["scores"].length)
        return read_rows(readers, offsets, self._broken)

    def _reader(self, name: str) -> RowReader:
        if name not in self.arrays:
            raise self._broken(f"array {name!r}: it is missing")
        header = self.arrays.header(name)
        fault = self._spec(name).find_fault(header)
        if fault:
            raise self._broken(f"array {name!r}: {fault}")
        return RowReader(header, self.arrays.chunks(name, CHUNK), lambda: self._broken(f"{name} ends too early"))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table of instances: image_file, image_id, category, name, score, x1, y1, x2, y2, area.

        Failed images and images without instances have no row. MachineError when pandas is not installed.
        """
        return interop.to_pandas(self)

    def to_supervision(self, image: int | str) -> sv.Detections:
        """Return an image's instances as supervision.Detections; MachineError when it is not installed."""
        return interop.to_supervision(self, image)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The origin and settings of the predictions; keys as in META."""
        try:
            meta = json.loads(str(self._array("meta")[()]))
        except (ValueError, RecursionError) as error:
            raise self._broken("meta is not JSON") from error
        if not isinstance(meta, dict):
            raise self._broken("meta is not a JSON object")
        return meta

    @cached_property
    def category_names(self) -> dict[int, str]:
        """The names of categories by id. Raises PredictionsError where meta has no list of them."""
        try:
            return {int(entry["id"]): str(entry["name"]) for entry in self.meta["categories"]}
        except (KeyError, TypeError, ValueError) as error:
            raise self._broken("meta has no list of categories") from error

    @cached_property
    def files(self) -> list[str]:
        """The image files, in order."""
        names: list[str] = self.image_file.tolist()
        return names

    @cached_property
    def image_id(self) -> NDArray[Any]:
        """(I,) ids of the images: int64, or objects where some id is no such number; from 1 when the file has none."""
        if "image_id" not in self.arrays:
            return np.arange(1, len(self) + 1)
        stored = self._array("image_id")
        if stored.dtype.kind != "U":
            return stored
        try:
            values = json.loads(f"[{','.join(stored.tolist())}]")
        except (ValueError, RecursionError) as error:
            raise self._broken(f"image_id is not JSON: {error}") from error
        if len(values) != len(stored) or not all(map(is_image_id, values)):
            raise self._broken("an image_id is not one JSON number or text")
        return make_id_array(values)

    @property
    def image_sha256(self) -> NDArray[np.uint8] | None:
        """(I,32) digests of the files that were decoded, zero where none was read; None in format 1"""
        return self._array("image_sha256") if "image_sha256" in self.arrays else None

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(I+1,) see SCHEMA; checked to ascend from 0 to N."""
        return self._offsets("offsets", len(self), len(self.scores))

    @cached_property
    def mask_offsets(self) -> NDArray[np.int64]:
        """(N+1,) see SCHEMA; checked to ascend from 0 to M. PredictionsError where there are no masks."""
        self.require_masks()
        if not self.has_masks:
            return np.zeros(1, np.int64)
        return self._offsets("mask_offsets", len(self.scores), len(self.masks))

    @property
    def image_file(self) -> NDArray[np.str_]:
        """(I,)"""
        return self._array("image_file")

    @property
    def image_size(self) -> NDArray[np.int32]:
        """(I,2) height, width"""
        return self._array("image_size")

    @property
    def status(self) -> NDArray[np.uint8]:
        """(I,)"""
        return self._array("status")

    @property
    def error(self) -> NDArray[np.str_]:
        """(I,)"""
        return self._array("error")

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N,4) x1, y1, x2, y2"""
        return self._array("boxes")

    @property
    def classes(self) -> NDArray[np.int32]:
        """(N,)"""
        return self._array("classes")

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,)"""
        return self._array("scores")

    @property
    def masks(self) -> NDArray[np.uint8]:
        """(M,) counts back to back; see `counts` and `mask`. PredictionsError where there are no masks."""
        self.require_masks()
        return self._array("masks") if self.has_masks else np.zeros(0, np.uint8)

    @property
    def mask_areas(self) -> NDArray[np.int64]:
        """(N,) pixels in each mask, known from `validate` if that was called. PredictionsError where one is broken."""
        if self._mask_areas is None:
            sizes = np.repeat(self.image_size, np.diff(self.offsets), axis=0)
            masks = RowReader(self.arrays.header("masks"), iter((self.masks,)), lambda: self._broken("masks end"))
            self._mask_areas = rle.measure_all(masks.take, self.mask_offsets, sizes)
        if len(self._mask_areas) and self._mask_areas.min() < 0:
            raise self._broken(f"the mask of row {int(np.argmin(self._mask_areas))} is broken")
        return self._mask_areas

    @property
    def attributes(self) -> NDArray[np.float32] | None:
        """(N,A) or None"""
        return self._array("attributes") if "attributes" in self.arrays else None

    @property
    def image_scores(self) -> NDArray[np.float32] | None:
        """(I,) or None"""
        return self._array("image_scores") if "image_scores" in self.arrays else None

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {file: i for i, file in enumerate(self.files)}

    def _record(self, i: int) -> Record:
        rows = self.rows(i)
        size = self.image_size[i].tolist()
        record = {
            "image_file": self.files[i],
            "image_size": tuple(size),
            "boxes": self.boxes[rows],
            "classes": self.classes[rows],
            "scores": self.scores[rows],
            "status": int(self.status[i]),
            "error": str(self.error[i]),
        }
        if self.has_masks:
            record["masks"] = [{"size": list(size), "counts": self.counts(n)} for n in range(rows.start, rows.stop)]
        if "image_id" in self.arrays:
            record["image_id"] = self.image_id[i : i + 1].tolist()[0]
        if self.image_sha256 is not None:
            record["image_sha256"] = self.image_sha256[i].tobytes().hex()
        if self.attributes is not None:
            record["attributes"] = self.attributes[rows]
        if self.image_scores is not None:
            record["image_score"] = float(self.image_scores[i])
        return record

    @cached_property
    def _specs(self) -> Mapping[str, ArraySpec]:
        """The arrays of this file's format."""
        return specs_of(self.meta.get("format"))

    def _spec(self, name: str) -> ArraySpec:
        # The spec of meta, which names the format, is the same in all formats.
        return SPECS[name] if name == "meta" or "meta" not in self.arrays else self._specs[name]

    def require_masks(self) -> None:
        """Raise PredictionsError where the model gives no masks."""
        if self.is_boxes_only:
            raise PredictionsError(
                f"{self.path or 'these predictions'} have no masks",
                why=f"{self.meta.get('model', 'the model')} gives boxes only",
                hint="compare boxes: --iou bbox",
            )

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._kept:
            if name not in self.arrays:
                raise self._broken(f"it has no array {name!r}")
            array = self.arrays[name]
            like = self._spec(name).rows_like
            fault = self._spec(name).find_fault(Header(array.shape, array.dtype, False))
            if fault is None and like not in (None, name) and len(array) != len(self._array(str(like))):
                fault = f"it has {len(array)} rows, {like} has {len(self._array(str(like)))}"
            if fault:
                raise self._broken(f"array {name!r}: {fault}")
            self._kept[name] = array
        return self._kept[name]

    def _offsets(self, name: str, count: int, end: int) -> NDArray[np.int64]:
        offsets = self._array(name)
        has_ends = len(offsets) == count + 1 and offsets[0] == 0 and offsets[-1] == end
        if not has_ends or (offsets[1:] < offsets[:-1]).any():
            raise self._broken(f"{name} does not ascend from 0 to {end} in {count} steps")
        return offsets

    def _broken(self, why: str) -> PredictionsError:
        what = self.path if self.path is not None else "these predictions"
        hint = f"orch validate {what}"
        return PredictionsError(f"{what} is not a valid predictions file", why=why, hint=hint)
