"""Records of images while they are listed, kept in an unnamed file; and hashes that occur twice."""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from orchestrator.inputs.image_ids import ImageId

ExaminedImage = tuple[str, str | None, int, int, str | None, ImageId | None, str | None, str | None]
"""Name with its root, real path where it differs, size, mtime in ns, error, COCO's id, truth, name of the data set."""

_BLOCK_RECORDS = 4096
_KEPT_IN_MEMORY = 8 << 20
_FEW = 100_000


class UnnamedFile(tempfile.SpooledTemporaryFile[bytes]):
    """A file without a name, in memory while small; it is deleted with the object, or with the process."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: where a large file is put; None: the temporary folder."""
        super().__init__(_KEPT_IN_MEMORY, dir=None if folder is None else str(folder))

    def __del__(self) -> None:
        self.close()


class RecordBuffer:
    """Keep records in order; iterating yields them any number of times."""

    def __init__(self, folder: Path | None) -> None:
        self._stream = UnnamedFile(folder)

    def extend(self, records: Iterable[ExaminedImage]) -> None:
        """Append records."""
        rest = iter(records)
        while chunk := list(islice(rest, _BLOCK_RECORDS)):
            block = marshal.dumps(chunk)
            self._stream.write(len(block).to_bytes(8, "little") + block)

    def __iter__(self) -> Iterator[ExaminedImage]:
        self._stream.seek(0)
        while length := self._stream.read(8):
            yield from marshal.loads(self._stream.read(int.from_bytes(length, "little")))


def repeated_hashes(hashes: array[int]) -> set[int]:
    """Return the hashes that occur more than once."""
    if len(hashes) < _FEW:  # faster than importing numpy
        once: set[int] = set()
        return {value for value in hashes if value in once or once.add(value)}  # type: ignore[func-returns-value]
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, np.int64))
    return {int(value) for value in np.unique(ordered[1:][ordered[1:] == ordered[:-1]])}
