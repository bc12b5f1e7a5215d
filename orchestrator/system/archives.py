"""Unpack .zip and .tar archives safely: no name, link or archive bomb reaches beyond the folder."""

from __future__ import annotations

import errno
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.errors import MachineError, UsageError
from orchestrator.system.free_space import Need, require_space

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RESERVE_BYTES = 64 << 20
OUTSIDE = "its name leads out of the folder"
_BLOCK = 1 << 20
_HEAD_BYTES = 32
_READ_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError,
                ValueError)  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Member:
    """One file of an archive by its safe relative name; `error` says why it was not unpacked."""

    name: str
    error: str | None = None


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


Wanted = Callable[[str, Callable[[], bytes]], str | None]


def unpack(archive: Path, folder: Path, wanted: Wanted) -> tuple[list[Member], list[Member]]:
    """Unpack the wanted files of an archive into `folder`.

    `wanted` gets a name and a function that returns the first bytes of the file; it returns None for a wanted file,
    else the reason to skip it. Returns the wanted members (a damaged or encrypted one with its error) and the skipped
    ones with the reason: links, devices and names that lead out of the folder are always skipped. Raises UsageError for
    a file that is not an archive, MachineError when the disk is full.
    """
    unpacked: list[Member] = []
    skipped: list[Member] = []
    with _members(archive) as members:
        for name, size, refusal, open_member in members:
            safe = safe_name(name)
            reason = refusal
            if reason is None:
                reason = OUTSIDE if safe is None else wanted(safe, partial(_read_head, open_member))
            if reason is not None or safe is None:
                skipped.append(Member(safe or name, reason))
                continue
            require_space([Need(folder, size, safe)], f"unpacking {archive.name}", reserve=RESERVE_BYTES)
            unpacked.append(Member(safe, _extract(open_member, folder / safe, size)))
    return unpacked, skipped


def _read_head(open_member: Callable[[], IO[bytes]]) -> bytes:
    """Return a member's first bytes; none of a damaged or encrypted one."""
    try:
        with open_member() as source:
            return source.read(_HEAD_BYTES)
    except _READ_ERRORS:
        return b""


def safe_name(name: str) -> str | None:
    """Return the name as a relative POSIX path, or None where it is absolute, has "..", or is a Windows path."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or re.match("[A-Za-z]:", str(path)):
        return None
    return str(path)


def _extract(open_member: Callable[[], IO[bytes]], target: Path, size: int) -> str | None:
    """Copy at most `size` bytes, the size the archive states, to `target`; return the error of a damaged member."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_member() as source, target.open("wb") as copy:
            while block := source.read(_BLOCK):
                written += len(block)
                if written > size:
                    raise zipfile.BadZipFile("larger than the archive states")
                copy.write(block)
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise MachineError(
                f"the disk is full: cannot unpack {target.name} into {target.parent}", why=error.strerror
            ) from error
        with suppress(OSError):
            target.unlink()
        return f"cannot be unpacked: {error}"
    return None


_Entry = tuple[str, int, str | None, Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Entry]]:
    """Yield the archive's files as (name, size, reason to refuse or None, function that opens it)."""
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                yield _zip_members(zipped)
        else:
            with tarfile.open(archive) as tarred:
                yield _tar_members(tarred)
    except _READ_ERRORS as error:
        raise UsageError(f"cannot read the archive {archive}", why=str(error)) from error


def _zip_members(zipped: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in zipped.infolist():
        if info.filename.endswith("/"):  # as info.is_dir(), which fails on an empty name
            continue
        refusal = "a link" if stat.S_ISLNK(info.external_attr >> 16) else None
        yield info.filename, info.file_size, refusal, partial(zipped.open, info)


def _tar_members(tarred: tarfile.TarFile) -> Iterator[_Entry]:
    for member in tarred:
        if member.isdir():
            continue
        refusal = None if member.isreg() else "a link or a special file"
        yield member.name, member.size, refusal, partial(_open_member, tarred, member)


def _open_member(tarred: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tarred.extractfile(member)
    if stream is None:
        raise tarfile.TarError("not a regular file")
    return stream
