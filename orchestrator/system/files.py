"""Writing files that others read: aside, fsynced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def written_aside(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` in one step; a reader sees the old content or the new.

    Not durable: it need not outlive the machine, which spares a wait for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file in one step, as `written_aside` does."""
    with written_aside(path, durable=durable) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a JSON file in one step."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is no UTF-8: JSON can only carry it as an escape
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n", durable=durable)


def sha256_of(path: Path) -> str:
    """The file's digest, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
