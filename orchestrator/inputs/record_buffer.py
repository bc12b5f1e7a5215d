"""What is known of images while they are listed, kept in blocks in a file without a name; and hashes met twice."""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

ExaminedImage = tuple[str, str | None, int, int, str | None, int | None, str | None]
"""Name with its root, real path where that is another, size, mtime in ns, error, COCO's id, truth."""

_AT_ONCE = 4096
_KEPT_IN_MEMORY = 8 << 20
_FEW = 100_000


class UnnamedFile(tempfile.SpooledTemporaryFile[bytes]):
    """In memory while it is small, then a file in a folder that goes away with the object, or with the process."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` None: where temporary files go."""
        super().__init__(_KEPT_IN_MEMORY, dir=None if folder is None else str(folder))

    def __del__(self) -> None:
        self.close()


class RecordBuffer:
    """Takes records one after another and gives them back in that order, any number of times."""

    def __init__(self, folder: Path | None) -> None:
        self._stream = UnnamedFile(folder)

    def extend(self, records: Iterable[ExaminedImage]) -> None:
        """Take the next records."""
        rest = iter(records)
        while some := list(islice(rest, _AT_ONCE)):
            block = marshal.dumps(some)
            self._stream.write(len(block).to_bytes(8, "little") + block)

    def __iter__(self) -> Iterator[ExaminedImage]:
        self._stream.seek(0)
        while length := self._stream.read(8):
            yield from marshal.loads(self._stream.read(int.from_bytes(length, "little")))


def repeated(hashes: array[int]) -> set[int]:
    """The hashes that are there more than once."""
    if len(hashes) < _FEW:  # done before numpy were imported
        once: set[int] = set()
        return {one for one in hashes if one in once or once.add(one)}  # type: ignore[func-returns-value]
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, np.int64))
    return {int(one) for one in np.unique(ordered[1:][ordered[1:] == ordered[:-1]])}
