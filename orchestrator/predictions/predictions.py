"""The standard predictions file: its schema as one table, and `Predictions`, which reads it."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictionsError
from orchestrator.predictions import rle
from orchestrator.predictions.npz import Arrays, Header, open_arrays

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

FORMAT = "orch-predictions/1"
STATUS_PREDICTED, STATUS_FAILED = 0, 1


@dataclass(frozen=True)
class ArraySpec:
    """One row of the schema. `dtype` "str" is fixed-width unicode of any width; letters in `shape` are sizes
    that must agree among arrays (I images, N instances, M bytes of masks, A attributes)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    optional: bool = False

    def fault(self, header: Header) -> str | None:
        """What is wrong with an array's dtype or number of axes, if anything."""
        right = header.dtype.kind == "U" if self.dtype == "str" else header.dtype == np.dtype(self.dtype)
        if not right or header.dtype.names:
            return f"its dtype is {header.dtype}, not {self.dtype}"
        pairs = zip(header.shape, self.shape, strict=False)
        fits = all(side == wanted for side, wanted in pairs if isinstance(wanted, int))
        if len(header.shape) != len(self.shape) or not fits:
            return f"its shape is {header.shape}, not ({', '.join(map(str, self.shape))})"
        return None

    @property
    def rows_like(self) -> str | None:
        """The array that has as many rows as this one must have, if there is one."""
        return {"I": "image_file", "N": "scores"}.get(str(self.shape[0])) if self.shape else None


# In the order they are written.
SCHEMA = (
    ArraySpec("image_file", "str", ("I",), "path relative to the input root, separated by /"),
    ArraySpec("image_id", "int64", ("I",), "COCO's own id, or else the position, from 1", optional=True),
    ArraySpec("image_size", "int32", ("I", 2), "height, width of the image the predictions refer to"),
    ArraySpec("status", "uint8", ("I",), "0 predicted, 1 failed"),
    ArraySpec("error", "str", ("I",), "why the image failed; empty for predicted ones"),
    ArraySpec("offsets", "int64", ("I+1",), "instances of image i are rows offsets[i]:offsets[i+1]"),
    ArraySpec("boxes", "float32", ("N", 4), "x1, y1, x2, y2 in pixels; right and lower edge exclusive"),
    ArraySpec("classes", "int32", ("N",), "category ids of the taxonomy in meta"),
    ArraySpec("scores", "float32", ("N",), "in [0, 1], descending within an image"),
    ArraySpec("masks", "uint8", ("M",), "COCO compressed RLE counts, back to back"),
    ArraySpec("mask_offsets", "int64", ("N+1",), "row n is masks[mask_offsets[n]:mask_offsets[n+1]]"),
    ArraySpec("attributes", "float32", ("N", "A"), "score per attribute", optional=True),
    ArraySpec("image_scores", "float32", ("I",), "probability of the whole image, or NaN", optional=True),
    ArraySpec("meta", "str", (), "JSON object, see META"),
)
SPECS: Mapping[str, ArraySpec] = {spec.name: spec for spec in SCHEMA}

META: Mapping[str, str] = {
    "format": f"{FORMAT!r}",
    "orch_version": "version of orch that wrote the file",
    "model": "name of the model",
    "stack": "its stack",
    "variant": "the stack's variant that ran",
    "task": "instance-segmentation or manipulation-localization",
    "categories": "list of {id, name}",
    "settings": "settings of the predictor",
    "score_threshold": "score floor, null if none",
    "max_detections": "most instances kept per image, null if no limit",
    "exif": "apply or ignore",
    "device": "cpu, or the GPU's name",
    "taxonomy": "name of the taxonomy the categories are from",
    "weights": "{key: {file, sha256}}",
    "runtime": "how the variant was made real",
    "image_digest": "digest of the container image or environment",
    "inputs": "{count, digest} of the input images",
    "native": "{box_order, box_edges, class_base, class_map} of the model's own output",
}
META_OPTIONAL: Mapping[str, str] = {"attribute_names": "names of the columns of attributes"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """One way in which predictions break the format; the image and row where that applies."""

    array: str
    message: str
    image: str | None = None
    row: int | None = None

    def __str__(self) -> str:
        where = [] if self.image is None else [f"image {self.image!r}"]
        where += [] if self.row is None else [f"row {self.row}"]
        return f"{self.array}{' (' + ', '.join(where) + ')' if where else ''}: {self.message}"


class Predictions:
    """Predictions by image. Arrays are read when first used, checked, and kept.

    `predictions[i]`, by position or file name, is the record of an image: image_file, image_size, boxes,
    classes, scores, masks, status, error, and image_id, attributes, image_score where the file has them.
    PredictionsError when the file turns out to be broken.
    """

    def __init__(self, arrays: Arrays | Mapping[str, NDArray[Any]], path: Path | None = None) -> None:
        self.arrays = arrays
        self.path = path
        self._kept: dict[str, NDArray[Any]] = {}

    @classmethod
    def load(cls, path: Path | str) -> Predictions:
        """Open a predictions file; UsageError when it is not there, PredictionsError when it is none."""
        arrays = open_arrays(Path(path))
        predictions = cls(arrays, Path(path))
        if predictions.meta.get("format") != FORMAT:
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
        """The position of an image file; KeyError when it is not among the images."""
        return self._positions[file]

    def rows(self, image: int) -> slice:
        """The rows of an image's instances."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def counts(self, row: int) -> bytes:
        """The RLE counts of an instance's mask."""
        return self.masks[int(self.mask_offsets[row]) : int(self.mask_offsets[row + 1])].tobytes()

    def mask(self, row: int) -> NDArray[np.bool_]:
        """An instance's mask, (height, width) of its image; PredictionsError when its counts are broken."""
        row = operator.index(row)
        if not 0 <= row < len(self.scores):
            raise IndexError(f"row {row} of {len(self.scores)}")
        image = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return rle.decode(self.counts(row), self.image_size[image].tolist())

    def validate(self, limit: int = 20) -> list[Problem]:
        """Everything in which the file breaks the format, at most `limit` problems of each kind."""
        from orchestrator.predictions.validation import problems

        return problems(self, limit)

    def to_coco(self, image_ids: NDArray[np.int64] | None = None) -> Iterator[dict[str, Any]]:
        """COCO results (bbox as x, y, width, height; counts as str), one at a time.

        `image_ids` (I,) replaces the file's own image_id, or the position counted from 1 where it has none. From a
        file nothing is held but the images' rows; masks that were read before are used.
        """
        if isinstance(self.arrays, Arrays) and "masks" not in self._kept:
            yield from self._streamed(self.arrays, image_ids)
            return
        ids = self.image_id if image_ids is None else image_ids
        for i in range(len(self)):
            rows = self.rows(i)
            corners = self.boxes[rows].astype(np.float64)
            boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1).tolist()
            size, image_id = self.image_size[i].tolist(), int(ids[i])
            values = zip(boxes, self.classes[rows].tolist(), self.scores[rows].tolist(), strict=True)
            for row, (box, category, score) in enumerate(values, rows.start):
                yield {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "score": score,
                    "segmentation": {"size": size, "counts": self.counts(row).decode("latin-1")},
                }

    def _streamed(self, arrays: Arrays, ids: NDArray[np.int64] | None) -> Iterator[dict[str, Any]]:
        from orchestrator.predictions.streaming import coco_results

        if ids is None:
            ids = self.image_id if "image_id" in arrays else np.arange(1, len(self.image_size) + 1)

        headers = {}
        for name in ("boxes", "classes", "scores", "masks", "mask_offsets"):
            fault = SPECS[name].fault(arrays.header(name)) if name in arrays else "it is missing"
            if fault:
                raise self._broken(f"array {name!r}: {fault}")
            headers[name] = arrays.header(name)
        count = headers["scores"].shape[0]
        offsets = self._array("offsets")
        closed = len(offsets) == len(self.image_size) + 1 and offsets[0] == 0 and offsets[-1] == count
        if not closed or (offsets[1:] < offsets[:-1]).any():
            raise self._broken(f"offsets does not ascend from 0 to {count} in {len(self.image_size)} steps")
        yield from coco_results(arrays, self.image_size, offsets, ids)

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row for each instance: image_file, image_id, category, name, score, x1, y1, x2, y2, area.

        Failed images and images without instances have none. MachineError when pandas is not installed.
        """
        from orchestrator.predictions.interop import to_pandas

        return to_pandas(self)

    def to_supervision(self, image: int | str) -> sv.Detections:
        """An image's instances as supervision.Detections, boxes and masks; MachineError when it is not installed."""
        from orchestrator.predictions.interop import to_supervision

        return to_supervision(self, image)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What the file says of its origin; keys as in META."""
        try:
            meta = json.loads(str(self._array("meta")[()]))
        except ValueError as error:
            raise self._broken("meta is not JSON") from error
        if not isinstance(meta, dict):
            raise self._broken("meta is not a JSON object")
        return meta

    @cached_property
    def files(self) -> list[str]:
        """The image files in order."""
        names: list[str] = self.image_file.tolist()
        return names

    @cached_property
    def image_id(self) -> NDArray[np.int64]:
        """(I,) ids of the images; counted from 1 when the file has none."""
        return self._array("image_id") if "image_id" in self.arrays else np.arange(1, len(self) + 1)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(I+1,) see SCHEMA; sure to ascend from 0 to N."""
        return self._offsets("offsets", len(self), len(self.scores))

    @cached_property
    def mask_offsets(self) -> NDArray[np.int64]:
        """(N+1,) see SCHEMA; sure to ascend from 0 to M."""
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
        """(M,) counts back to back; see `counts` and `mask`"""
        return self._array("masks")

    @property
    def attributes(self) -> NDArray[np.float32] | None:
        """(N,A) or None"""
        return self._array("attributes") if "attributes" in self.arrays else None

    @property
    def image_scores(self) -> NDArray[np.float32] | None:
        """(I,) or None"""
        return self._array("image_scores") if "image_scores" in self.arrays else None

    @cached_property
    def _positions(self) -> dict[str, int]:
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
            "masks": [{"size": list(size), "counts": self.counts(n)} for n in range(rows.start, rows.stop)],
            "status": int(self.status[i]),
            "error": str(self.error[i]),
        }
        if "image_id" in self.arrays:
            record["image_id"] = int(self.image_id[i])
        if self.attributes is not None:
            record["attributes"] = self.attributes[rows]
        if self.image_scores is not None:
            record["image_score"] = float(self.image_scores[i])
        return record

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._kept:
            if name not in self.arrays:
                raise self._broken(f"it has no array {name!r}")
            array = self.arrays[name]
            like = SPECS[name].rows_like
            fault = SPECS[name].fault(Header(array.shape, array.dtype, False))
            if fault is None and like not in (None, name) and len(array) != len(self._array(str(like))):
                fault = f"it has {len(array)} rows, {like} has {len(self._array(str(like)))}"
            if fault:
                raise self._broken(f"array {name!r}: {fault}")
            self._kept[name] = array
        return self._kept[name]

    def _offsets(self, name: str, count: int, end: int) -> NDArray[np.int64]:
        offsets = self._array(name)
        closed = len(offsets) == count + 1 and offsets[0] == 0 and offsets[-1] == end
        if not closed or (offsets[1:] < offsets[:-1]).any():
            raise self._broken(f"{name} does not ascend from 0 to {end} in {count} steps")
        return offsets

    def _broken(self, why: str) -> PredictionsError:
        what = self.path if self.path is not None else "these predictions"
        hint = f"orch validate {what}"
        return PredictionsError(f"{what} is not a valid predictions file", why=why, hint=hint)
