"""Export as a Parquet file with one row per instance, for pandas, Polars and DuckDB; needs orch[parquet]."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.errors import PredictionsError
from orchestrator.predictions.interop import import_optional
from orchestrator.predictions.predictions import Predictions
from orchestrator.predictions.records import find_indices
from orchestrator.system import replace_file

ROWS_AT_ONCE = 1 << 16

COLUMNS = {
    "image_file": "string",
    "image_id": "int64",  # or string: JSON, where some id is not a number of 64 bits
    "image_height": "int32",
    "image_width": "int32",
    "category_id": "int32",
    "category": "string",
    "score": "float32",
    "x1": "float32",
    "y1": "float32",
    "x2": "float32",
    "y2": "float32",
    "rle_counts": "string",
    "attributes": "list<float>",
}
"""The columns and their types; the last two only where the predictions have masks and attributes."""


def export_parquet(predictions: Predictions, target: Path) -> None:
    """Write the table of COLUMNS to the file `target`, some rows at a time.

    `rle_counts` with the image's height and width is COCO's compressed RLE. The file's metadata has `meta` as
    orch.meta. MachineError when pyarrow is not installed.
    """
    arrow, parquet = import_optional("pyarrow"), import_optional("pyarrow.parquet")
    find_indices(predictions)
    types = {"list<float>": arrow.list_(arrow.float32())}
    present = [name for name in COLUMNS if _has_column(predictions, name)]
    fields = {name: types.get(COLUMNS[name]) or getattr(arrow, COLUMNS[name])() for name in present}
    if predictions.image_id.dtype.kind == "O":
        fields["image_id"] = arrow.string()
    described = json.dumps(predictions.meta, sort_keys=True)
    schema = arrow.schema(list(fields.items()), metadata={"orch.meta": described})
    with replace_file(target) as stream, parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for columns in _read_columns(predictions):
            writer.write_table(arrow.table({name: columns[name] for name in present}, schema=schema))


def _has_column(predictions: Predictions, name: str) -> bool:
    if name == "rle_counts":
        return predictions.has_masks
    return name != "attributes" or predictions.attributes is not None


def _read_columns(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield the columns of about ROWS_AT_ONCE instances at a time, those of whole images."""
    files, ids = np.array([_check_text(file) for file in predictions.files], object), predictions.image_id
    if ids.dtype.kind == "O":
        ids = np.array([json.dumps(number) for number in ids.tolist()], object)
    names = predictions.category_names
    offsets, attributes = predictions.offsets, predictions.attributes
    start = 0
    while start < len(predictions):
        stop = int(np.searchsorted(offsets, offsets[start] + ROWS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), len(predictions))
        images = np.repeat(np.arange(start, stop), np.diff(offsets[start : stop + 1]))
        rows = slice(int(offsets[start]), int(offsets[stop]))
        classes, boxes = predictions.classes[rows], predictions.boxes[rows]
        columns: dict[str, Any] = {
            "image_file": files[images],
            "image_id": ids[images],
            "image_height": predictions.image_size[images, 0],
            "image_width": predictions.image_size[images, 1],
            "category_id": classes,
            "category": [names[category] for category in classes.tolist()],
            "score": predictions.scores[rows],
            **{side: np.ascontiguousarray(boxes[:, index]) for index, side in enumerate(("x1", "y1", "x2", "y2"))},
        }
        if predictions.has_masks:
            columns["rle_counts"] = [predictions.counts(row).decode("latin-1") for row in range(rows.start, rows.stop)]
        if attributes is not None:
            columns["attributes"] = list(attributes[rows])
        yield columns
        start = stop


def _check_text(file: str) -> str:
    try:
        file.encode()
    except UnicodeEncodeError as error:
        hint = "rename the image, or --format coco"
        raise PredictionsError(f"Parquet cannot hold the name {file!r}", why="it is not UTF-8", hint=hint) from error
    return file
