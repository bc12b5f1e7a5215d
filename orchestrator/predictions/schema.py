"""The format of the predictions file as one table: its arrays and the keys of `meta`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.predictions.npz import Header

FORMAT, FORMAT_1 = "orch-predictions/2", "orch-predictions/1"
SHARD_FORMAT = "orch-shard/2"
STATUS_PREDICTED, STATUS_FAILED = 0, 1


@dataclass(frozen=True)
class ArraySpec:
    """One row of the schema.

    `dtype` "str" is fixed-width unicode of any width; letters in `shape` are sizes that must agree among arrays
    (I images, N instances, M bytes of masks, A attributes).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    optional: bool = False

    def find_fault(self, header: Header) -> str | None:
        """Return what is wrong with an array's dtype or axes, or None."""
        has_dtype = header.dtype.kind == "U" if self.dtype == "str" else header.dtype == np.dtype(self.dtype)
        if not has_dtype or header.dtype.names:
            return f"its dtype is {header.dtype}, not {self.dtype}"
        pairs = zip(header.shape, self.shape, strict=False)
        has_sides = all(side == wanted for side, wanted in pairs if isinstance(wanted, int))
        if len(header.shape) != len(self.shape) or not has_sides:
            return f"its shape is {header.shape}, not ({', '.join(map(str, self.shape))})"
        return None

    @property
    def rows_like(self) -> str | None:
        """The array that must have as many rows as this one, if there is one."""
        return {"I": "image_file", "N": "scores"}.get(str(self.shape[0])) if self.shape else None


# In the order in which they are written.
SCHEMA = (
    ArraySpec("image_file", "str", ("I",), "path relative to the input root, separated by /"),
    ArraySpec("image_id", "str", ("I",), "JSON text of COCO's own id, or else of the number from 1", optional=True),
    ArraySpec("image_sha256", "uint8", ("I", 32), "sha256 of the bytes that were decoded; zero if none were read"),
    ArraySpec("image_size", "int32", ("I", 2), "height, width of the image the predictions refer to"),
    ArraySpec("status", "uint8", ("I",), "0 predicted, 1 failed"),
    ArraySpec("error", "str", ("I",), "why the image failed; empty for predicted ones"),
    ArraySpec("offsets", "int64", ("I+1",), "instances of image i are rows offsets[i]:offsets[i+1]"),
    ArraySpec("boxes", "float32", ("N", 4), "x1, y1, x2, y2 in pixels; right and lower edge exclusive"),
    ArraySpec("classes", "int32", ("N",), "category ids of the taxonomy in meta"),
    ArraySpec("scores", "float32", ("N",), "in [0, 1], descending within an image"),
    ArraySpec("masks", "uint8", ("M",), "COCO compressed RLE counts, back to back", optional=True),
    ArraySpec("mask_offsets", "int64", ("N+1",), "row n is masks[mask_offsets[n]:mask_offsets[n+1]]", optional=True),
    ArraySpec("attributes", "float32", ("N", "A"), "score per attribute", optional=True),
    ArraySpec("image_scores", "float32", ("I",), "probability of the whole image, or NaN", optional=True),
    ArraySpec("meta", "str", (), "JSON object, see META"),
)
PAIRED = ("masks", "mask_offsets")
"""The arrays that are both there or both absent: a model without masks has neither."""
_CHANGED_IN_2 = {
    "image_id": ArraySpec("image_id", "int64", ("I",), "COCO's own id, or else the number from 1", optional=True)
}
_SCHEMA_1 = tuple(
    replace(_CHANGED_IN_2.get(spec.name, spec), optional=spec.optional and spec.name not in PAIRED)
    for spec in SCHEMA
    if spec.name != "image_sha256"
)
FORMATS: Mapping[str, tuple[ArraySpec, ...]] = {FORMAT: SCHEMA, FORMAT_1: _SCHEMA_1}
"""The arrays of each format that is read; FORMAT is the one that is written."""


def specs_of(version: object) -> Mapping[str, ArraySpec]:
    """Return the arrays of a format by name; those of FORMAT if it is unknown."""
    return {spec.name: spec for spec in FORMATS.get(str(version), SCHEMA)}


SPECS: Mapping[str, ArraySpec] = specs_of(FORMAT)

META: Mapping[str, str] = {
    "format": f"{FORMAT!r}",
    "orch_version": "version of orch that wrote the file",
    "model": "name of the model",
    "stack": "its stack",
    "variant": "the stack's variant that ran",
    "task": "a name in orchestrator.catalog.tasks.TASKS",
    "categories": "list of {id, name}",
    "settings": "settings of the predictor",
    "score_threshold": "score floor, null if none",
    "max_detections": "most instances kept per image, null if no limit",
    "exif": "apply or ignore",
    "device": "cpu, or the GPU's name",
    "taxonomy": "name of the taxonomy the categories are from",
    "weights": "{key: {file, sha256}}",
    "runtime": "docker, venv, …: how the variant was built and run",
    "image_digest": "digest of the container image or environment",
    "inputs": "{count, digest} of the input images",
    "native": "{box_order, box_edges, class_base, class_map} of the model's own output",
}
META_OPTIONAL: Mapping[str, str] = {
    "attribute_names": "names of the columns of attributes",
    "imported": "{results, annotations}: {file, sha256} of each; the predictions of another program",
}
FARTHEST = 1e6
"""Pixels by which boxes of imported predictions may reach outside their image: they are kept as they were given."""


@dataclass(frozen=True)
class Problem:
    """One way in which predictions break the format, with image and row if it is about one."""

    array: str
    message: str
    image: str | None = None
    row: int | None = None

    def __str__(self) -> str:
        where = [] if self.image is None else [f"image {self.image!r}"]
        where += [] if self.row is None else [f"row {self.row}"]
        return f"{self.array}{' (' + ', '.join(where) + ')' if where else ''}: {self.message}"


def is_class(value: object) -> bool:
    """Return whether a value can stand in the array `classes`: only such ids of categories mean anything."""
    return type(value) is int and -(1 << 31) <= value < 1 << 31


def to_xywh(corners: NDArray[Any]) -> NDArray[np.float64]:
    """Return boxes (…,4) given as x1, y1, x2, y2 as x, y, width, height."""
    corners = corners.astype(np.float64)
    return np.concatenate((corners[..., :2], corners[..., 2:] - corners[..., :2]), axis=-1)


def to_native_edges(boxes: NDArray[np.float32], native: object) -> NDArray[np.float32]:
    """Return (n,4) boxes with the right and lower edges as the model's own project counts them.

    `native` is that of the predictions' meta, if they have one. The box of an empty mask remains all zeros.
    """
    if not isinstance(native, dict) or native.get("box_edges") != "inclusive":
        return boxes
    last = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    return np.concatenate([boxes[:, :2], last], axis=1)
