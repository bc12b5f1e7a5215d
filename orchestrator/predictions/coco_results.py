"""COCO results of predictions: as objects, or written as JSON text column by column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json  # comes with pydantic; writes numbers ten times faster than json

from orchestrator.errors import PredictionsError
from orchestrator.predictions.npz import RowReader
from orchestrator.predictions.schema import to_xywh

ROWS = 500  # instances read and written at a time
_FIRST_CODE, _LAST_CODE = 48, 111  # of the characters in RLE counts; of these only the backslash is escaped in JSON


@dataclass(frozen=True)
class Rows:
    """Some consecutive instances: `image` (n,) indices, `boxes` (n,4) x, y, width, height, and the counts of masks."""

    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int32]
    scores: NDArray[np.float32]
    counts: list[bytes] | None


def read_rows(
    readers: Mapping[str, RowReader], offsets: NDArray[np.int64], broken: Callable[[str], PredictionsError]
) -> Iterator[Rows]:
    """Yield all instances, ROWS at a time, from readers of their arrays; `broken` makes the error for damaged ones."""
    has_masks, end = "masks" in readers, 0
    if has_masks and int(readers["mask_offsets"].take(1)[0]) != 0:
        raise broken("mask_offsets do not start at 0")
    for start in range(0, int(offsets[-1]), ROWS):
        count = min(ROWS, int(offsets[-1]) - start)
        counts = None
        if has_masks:
            ends = np.append(end, readers["mask_offsets"].take(count))
            if (np.diff(ends) < 0).any():
                raise broken("mask_offsets do not ascend")
            data = readers["masks"].take(int(ends[-1] - end)).tobytes()
            counts = [data[first:stop] for first, stop in pairwise((ends - end).tolist())]
            end = int(ends[-1])
        yield Rows(
            image=np.searchsorted(offsets, np.arange(start, start + count), side="right") - 1,
            boxes=to_xywh(readers["boxes"].take(count)),
            classes=readers["classes"].take(count),
            scores=readers["scores"].take(count),
            counts=counts,
        )
    for name, reader in readers.items():
        if not reader.is_at_end():
            raise broken(f"{name} continues after the last instance")


def iterate_results(rows: Iterator[Rows], ids: list[Any], sizes: list[list[int]]) -> Iterator[dict[str, Any]]:
    """Yield one COCO result per instance, given the id and size of each image."""
    for part in rows:
        columns = (part.image.tolist(), part.boxes.tolist(), part.classes.tolist(), part.scores.tolist())
        for place, (image, box, category, score) in enumerate(zip(*columns, strict=True)):
            result = {"image_id": ids[image], "category_id": category, "bbox": box, "score": score}
            if part.counts is not None:
                result["segmentation"] = {"size": sizes[image], "counts": part.counts[place].decode("latin-1")}
            yield result


def write_results(stream: IO[bytes], rows: Iterator[Rows], ids: list[Any], sizes: list[list[int]]) -> None:
    """Write the results as a JSON list, one line per instance. ValueError when a box or score is not finite."""
    is_first = True
    for part in rows:
        text = _format(part, ids, sizes)
        stream.write(b"[" + text[1:] if is_first else text)
        is_first = False
    stream.write(b"[]\n" if is_first else b"\n]\n")


def _format(part: Rows, ids: list[Any], sizes: list[list[int]]) -> bytes:
    """Return instances as JSON objects, each after a comma and a line feed.

    Numbers are written as the shortest text that reads as the same.
    """
    if not (np.isfinite(part.boxes).all() and np.isfinite(part.scores).all()):
        raise ValueError("JSON has no text for NaN and infinity")
    first, last = int(part.image[0]), int(part.image[-1])
    image = (part.image - first).tolist()
    starts = [b',\n{"image_id":%b,"category_id":' % json.dumps(one).encode() for one in ids[first : last + 1]]
    columns = [
        [starts[index] for index in image],
        [b'%d,"bbox":[' % category for category in part.classes.tolist()],
        to_json(part.boxes.tolist())[2:-2].split(b"],["),
        [b'],"score":'] * len(image),
        to_json(part.scores.tolist())[1:-1].split(b","),
    ]
    if part.counts is None:
        columns += [[b"}"] * len(image)]
    else:
        middles = [b',"segmentation":{"size":[%d,%d],"counts":"' % tuple(size) for size in sizes[first : last + 1]]
        columns += [[middles[index] for index in image], _escape(part.counts), [b'"}}'] * len(image)]
    pieces = [b""] * (len(columns) * len(image))
    for place, column in enumerate(columns):
        pieces[place :: len(columns)] = column
    return b"".join(pieces)


def _escape(counts: list[bytes]) -> list[bytes]:
    data = np.frombuffer(b"".join(counts), np.uint8)
    if len(data) and (data.min() < _FIRST_CODE or data.max() > _LAST_CODE):  # broken masks: any bytes
        return [json.dumps(one.decode("latin-1"))[1:-1].encode() for one in counts]
    return [one.replace(b"\\", b"\\\\") for one in counts]
