"""Write files so that readers see the old content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import IO, Iterator


@contextlib.contextmanager
def open_replacement(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a hidden file beside `path` that replaces it at the end of the block; an error deletes it.

    The random name keeps processes of several containers, whose process ids may be equal, apart.
    """
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with aside.open("wb") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        os.replace(aside, path)
    except BaseException:
        remove_file(aside)
        raise


def remove_file(path: Path) -> None:
    """Delete a file; do nothing where that is impossible."""
    with contextlib.suppress(OSError):
        path.unlink()


def hash_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
