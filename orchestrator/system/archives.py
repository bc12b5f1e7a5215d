"""Taking files out of .zip and .tar archives without letting a name, a link or a bomb do harm."""

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
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.errors import MachineError, UsageError
from orchestrator.system.free_space import Need, require_space

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RESERVE_BYTES = 64 << 20
_BLOCK = 1 << 20
_READ_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError,
                ValueError)  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Member:
    """One regular file of an archive, by its safe relative name; `error` where it could not be taken out."""

    name: str
    error: str | None = None


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive orch reads."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path, wanted: Callable[[str], str | None]) -> tuple[list[Member], list[Member]]:
    """Take the wanted files of an archive out into `folder`.

    `wanted` gives None for a file that is wanted, else the reason why not. Returns the members that were wanted (a
    damaged or encrypted one with its error) and those left out with the reason: links, devices and names that would
    leave the folder are always left out. Raises UsageError for a file that is no archive, MachineError when the disk
    is full.
    """
    taken: list[Member] = []
    left: list[Member] = []
    with _members(archive) as members:
        for name, size, refusal, opened in members:
            safe = safe_name(name)
            reason = refusal or ("its name would leave the folder" if safe is None else wanted(safe))
            if reason is not None or safe is None:
                left.append(Member(safe or name, reason))
                continue
            require_space([Need(folder, size, safe)], f"unpacking {archive.name}", reserve=RESERVE_BYTES)
            taken.append(Member(safe, _extract(opened, folder / safe, size)))
    return taken, left


def safe_name(name: str) -> str | None:
    """The name as a relative POSIX path, or None when it is absolute, goes up, or is a Windows path."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or re.match("[A-Za-z]:", str(path)):
        return None
    return str(path)


def _extract(opened: Callable[[], IO[bytes]], target: Path, size: int) -> str | None:
    """Copy at most `size` bytes, the size the archive states, to `target`; the error if the member is damaged."""
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, target.open("wb") as copy:
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
        return f"cannot be taken out of the archive: {error}"
    return None


_Entry = tuple[str, int, str | None, Callable[[], IO[bytes]]]


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Entry]]:
    """The archive's files as (name, size, reason to refuse or None, how to open)."""
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
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        refusal = "a link" if stat.S_ISLNK(mode) else None
        yield info.filename, info.file_size, refusal, _opener(zipped, info)


def _opener(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: zipped.open(info)


def _tar_members(tarred: tarfile.TarFile) -> Iterator[_Entry]:
    for member in tarred:
        if member.isdir():
            continue
        refusal = None if member.isreg() else "a link or a special file"
        yield member.name, member.size, refusal, _tar_opener(tarred, member)


def _tar_opener(tarred: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        stream = tarred.extractfile(member)
        if stream is None:
            raise tarfile.TarError("not a regular file")
        return stream

    return opened
