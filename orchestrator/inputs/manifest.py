"""inputs.jsonl, a run's images as JSON lines: written as a stream, read by slices, never wholly in memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import IO, overload

from orchestrator.inputs.image_ids import ImageId
from orchestrator.inputs.record_buffer import UnnamedFile
from orchestrator.system import replace_file

STRIDE = 64
"""The offset of every STRIDE-th line is kept, so that a slice is read without the lines before it."""
_READ_AT_ONCE = 4096
_AN_ERROR = b'"error": "'
"""Marks a line with an error; inside a string the quotes would be escaped."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """One image to predict.

    `file` is its public name, relative and /-separated; `path` is "ROOT/relative path", with ROOT an index into
    InputSet.roots. For an image that cannot be read, `error` says why and `path` is empty.
    """

    index: int
    file: str
    path: str
    image_id: ImageId
    size: int
    mtime_ns: int
    error: str | None = None
    truth: str | None = None
    """Path of its mask, or "Negative", in a data set of manipulation localization."""
    data_set: str | None = None
    """The name of that data set, in a list of several; only then a line has this field."""


class Images(Sequence[InputImage]):
    """The images of a run in order. Each access reads lines from the disk (for small runs, from memory)."""

    def __init__(
        self,
        stream: IO[bytes],
        starts: array[int],
        count: int,
        unreadable: int,
        digest: str,
        bytes_until: array[int] | None = None,
    ) -> None:
        """`starts` has the offset of every STRIDE-th line and, like `bytes_until`, one more value for the end."""
        self._stream, self._starts, self._count, self._bytes_until = stream, starts, count, bytes_until
        self._close = weakref.finalize(self, stream.close)
        self.unreadable, self.digest = unreadable, digest

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, key: int) -> InputImage: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[InputImage, ...]: ...
    def __getitem__(self, key: int | slice) -> InputImage | tuple[InputImage, ...]:
        if isinstance(key, int):
            index = range(self._count)[key]
            return self._read(index, index + 1)[0]
        start, stop, step = key.indices(self._count)
        return self._read(start, stop) if step == 1 else tuple(self[index] for index in range(start, stop, step))

    def __iter__(self) -> Iterator[InputImage]:
        for start in range(0, self._count, _READ_AT_ONCE):
            yield from self._read(start, min(start + _READ_AT_ONCE, self._count))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like other sequences that are compared by content

    def bytes_in(self, start: int, stop: int) -> int:
        """Return the total size of the images from `start` up to `stop`; whole strides are not read."""
        stop = min(stop, self._count)
        if self._bytes_until is not None and start % STRIDE == 0 and (stop % STRIDE == 0 or stop == self._count):
            return self._bytes_until[-(-stop // STRIDE)] - self._bytes_until[start // STRIDE]
        return sum(image.size for image in self[start:stop])

    def save(self, path: Path) -> None:
        """Write the lines to the file `path` in one step, and read them from there afterwards."""
        with replace_file(path) as copy:
            self._stream.seek(0)
            shutil.copyfileobj(self._stream, copy, 1 << 20)
        self._use(path)

    def is_saved_as(self, path: Path) -> bool:
        """Return whether the file `path` has exactly these lines; if so, they are read from there afterwards."""
        self._stream.seek(0)
        with path.open("rb") as saved:
            while True:
                mine, its = self._stream.read(1 << 20), saved.read(1 << 20)
                if mine != its:
                    return False
                if not mine:
                    break
        self._use(path)
        return True

    def _use(self, path: Path) -> None:
        self._close()
        self._stream = path.open("rb")
        self._close = weakref.finalize(self, self._stream.close)

    def _read(self, start: int, stop: int) -> tuple[InputImage, ...]:
        if start >= stop:
            return ()
        first, last = start // STRIDE, -(-stop // STRIDE)
        self._stream.seek(self._starts[first])
        block = self._stream.read(self._starts[last] - self._starts[first])
        lines = block.split(b"\n")[start - first * STRIDE : stop - first * STRIDE]
        return tuple(InputImage(**entry) for entry in json.loads(b"[" + b",".join(lines) + b"]"))


InputRow = tuple[str, str, ImageId, int, int, str | None, str | None, str | None]
"""The fields of an InputImage after its index."""


def write_images(rows: Iterable[InputRow], folder: Path | None) -> Images:
    """Return the images of these rows. A long list is kept in `folder` until saved; None: the temporary folder."""
    stream, starts, at, count, unreadable = UnnamedFile(folder), array("Q", [0]), 0, 0, 0
    digest, rest, bytes_until = hashlib.sha256(), iter(rows), array("Q", [0])
    while chunk := list(islice(rest, STRIDE)):
        block = "".join(map(_line, range(count, count + len(chunk)), chunk)).encode("ascii")
        stream.write(block)
        digest.update("".join([f"{row[0]}\0{row[3]}\n" for row in chunk]).encode("utf-8", "surrogateescape"))
        at += len(block)
        starts.append(at)
        bytes_until.append(bytes_until[-1] + sum([row[3] for row in chunk]))
        count += len(chunk)
        unreadable += sum([row[5] is not None for row in chunk])
    return Images(stream, starts, count, unreadable, digest.hexdigest(), bytes_until)


def _line(index: int, row: InputRow) -> str:
    """Return the line that json.dumps would write, in a third of the time."""
    file, path, image_id, size, mtime_ns, error, truth, data_set = row
    number = image_id if type(image_id) is int else json.dumps(image_id)
    named = "" if data_set is None else f', "data_set": {quoted(data_set)}'
    return (
        f'{{"index": {index}, "file": {quoted(file)}, "path": {quoted(path)}, "image_id": {number}, '
        f'"size": {size}, "mtime_ns": {mtime_ns}, "error": {"null" if error is None else quoted(error)}, '
        f'"truth": {"null" if truth is None else quoted(truth)}{named}}}\n'
    )


def read_inputs(path: Path) -> Iterator[InputImage]:
    """Yield the images of a run's inputs.jsonl."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield InputImage(**json.loads(line))


def open_inputs(path: Path, digest: str) -> Images:
    """Return the images of a run's inputs.jsonl, readable by slices; `digest` is the one in run.json.

    The file is read once, to find its lines.
    """
    starts, at, count, unreadable = array("Q", [0]), 0, 0, 0
    with path.open("rb") as lines:
        for line in lines:
            at += len(line)
            count += 1
            unreadable += _AN_ERROR in line
            if count % STRIDE == 0:
                starts.append(at)
    if count % STRIDE:
        starts.append(at)
    return Images(path.open("rb"), starts, count, unreadable, digest)
