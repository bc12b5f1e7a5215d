"""Replace a file in one step: written under another name, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replace_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a name beside `path`; what the block makes there, a file or a folder, then replaces `path`.

    A reader sees the old content or the new. When the block fails, nothing changes. `durable` waits for the disk, so
    that a file outlives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        if durable and aside.is_file():
            _sync(aside)
        os.replace(aside, path)
    except BaseException:
        remove(aside)
        raise
    if durable:
        _sync(path.parent)


@contextmanager
def replace_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yield a binary stream whose content replaces the file `path`, as `replace_path` does."""
    with replace_path(path, durable=durable) as aside, aside.open("wb") as stream:
        yield stream


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a text file, as `replace_path` does."""
    with replace_file(path, durable=durable) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a JSON file, as `replace_path` does."""
    with replace_file(path, durable=durable) as stream:
        stream.write(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return a JSON file's content."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: JSON carries it only as an escape
        text = json.dumps(value, indent=2).encode()
    return text + b"\n"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
