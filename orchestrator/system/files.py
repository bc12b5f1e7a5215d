"""Replace a file in one step: written under another name, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import MachineError

READ_LIMIT = 64 << 20
"""Bytes of a file that is read whole unless the caller says otherwise."""
_LONGEST_KEPT = 200


@contextmanager
def replace_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a name beside `path`; what the block makes there, a file or a folder, then replaces `path`.

    A reader sees the old content or the new. When the block fails, nothing changes. `durable` waits for the disk, so
    that a file outlives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(_aside_name(path.name))
    try:
        yield aside
        if durable and aside.is_file():
            sync_path(aside)
        os.replace(aside, path)
    except BaseException as error:
        remove(aside)
        if isinstance(error, OSError) and error.filename in (None, str(aside)):  # a write on a full disk names no file
            error.filename, error.filename2 = str(path), None
        raise
    if durable:
        sync_path(path.parent)


def _aside_name(name: str) -> str:
    """Return the name under which a file is written first; the longest names are cut, as both must be valid."""
    if len(os.fsencode(name)) > _LONGEST_KEPT:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.{os.getpid()}.tmp"


@contextmanager
def replace_file(path: Path, *, durable: bool = True, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Yield a binary stream whose content replaces the file `path`, as `replace_path` does.

    `mode`: of the file, whatever the umask; None: the usual one.
    """
    with replace_path(path, durable=durable) as aside, aside.open("wb") as stream:
        if mode is not None:
            os.fchmod(stream.fileno(), mode)
        yield stream


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_regular_file(path: Path) -> bool:
    """Return whether a path is a file itself: no link to one, folder, FIFO or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def read_regular(path: Path, limit: int = READ_LIMIT) -> bytes:
    """Return a file's content, without ever waiting for a FIFO or following a link in its place.

    Raises FileNotFoundError, and OSError that says what stands there or that the file is larger than `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise OSError(error.errno, "a link or a socket, not a file", str(path)) from None
        raise
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if state.st_size > limit:
            raise OSError(errno.EFBIG, f"{state.st_size} bytes, {limit} at most", str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(limit)
    finally:
        os.close(descriptor)


def read_json_object(path: Path, limit: int = READ_LIMIT) -> dict[str, Any]:
    """Return the JSON object in a file, read as `read_regular` does. Raises OSError; ValueError for other content."""
    try:
        value = json.loads(read_regular(path, limit))
    except RecursionError:
        raise ValueError("too deeply nested") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def require_format(document: Mapping[str, Any], wanted: str, path: Path, hint: str) -> None:
    """Raise MachineError where another version of orch wrote a kept file. Files of before formats were named are read.

    `wanted`: the format of this version, whose first version has the fields that files without a format have. What is
    no version of that format is damage, which the reader's own checks find.
    """
    written = document.get("format", wanted)
    name = wanted.partition("/")[0]
    if written != wanted and isinstance(written, str) and re.fullmatch(rf"{re.escape(name)}/\d{{1,9}}", written):
        why = f"its format is {written}; this version reads {wanted}"
        raise MachineError(f"{path} was written by another version of orch", why=why, hint=hint)


def open_to_append(path: Path) -> IO[str]:
    """Open a text file to append lines to it. What is no file there, but a link, FIFO or socket, is replaced.

    Raises IsADirectoryError, OSError.
    """
    if not is_regular_file(path) and (path.is_symlink() or not path.is_dir()):
        path.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    stream = open(os.open(path, flags, 0o666), "a", encoding="utf-8")  # noqa: SIM115  # the caller closes it
    size = os.fstat(stream.fileno()).st_size
    if size and os.pread(stream.fileno(), 1, size - 1) != b"\n":  # a line that was cut off ends here
        stream.write("\n")
    return stream


def sync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, durable: bool = True, mode: int | None = None) -> None:
    """Replace a text file, as `replace_file` does."""
    with replace_file(path, durable=durable, mode=mode) as stream:
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


def sha256_of_tree(folder: Path) -> str:
    """Return a digest of the names and contents of all files below a folder. Raises OSError."""
    digest = hashlib.sha256()
    for name, path in _files_below(folder):
        digest.update(f"{name}\0{sha256_of(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def state_of_tree(folder: Path) -> str:
    """Return a digest of the names, sizes and times of all files below a folder; reads no file. Raises OSError."""
    digest = hashlib.sha256()
    for name, path in _files_below(folder):
        state = path.stat()
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files_below(folder: Path) -> list[tuple[str, Path]]:
    return sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
