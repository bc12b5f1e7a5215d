"""The one door to folders that a guest can write: no link, FIFO, mode or name found there is trusted.

Every file is reached from the descriptor of the tree's root, component by component with O_NOFOLLOW, so a folder
that the guest swaps for a link is refused, not followed. Content is copied out; nothing is moved, linked or handed
over by name, and nothing that the guest may swap is chowned or chmodded.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

BLOCK = 1 << 20
ENTRIES_LIMIT = 200_000
"""Entries of one folder; a guest that makes more is refused instead of listed."""
DEPTH_LIMIT = 16
SMALL_FILE = 1 << 20
"""Bytes of a file that is read whole unless the caller says otherwise."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would wait for its other end for ever.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class GuestFileRefused(OSError):
    """A guest left something that is not what it should be; `reason` says what. An OSError, as of a missing file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, str(path))
        self.reason = reason


@dataclass(frozen=True)
class GuestFile:
    """State of a regular file: its size in bytes, and the time of its last change in nanoseconds."""

    size: int
    mtime_ns: int


class GuestTree:
    """A folder that a guest can write, held open by descriptor.

    Names are relative to the root, "/"-separated, without "." and "..". All methods raise FileNotFoundError for what is
    missing, GuestFileRefused for what is no regular file or folder of an expected owner, and OSError.
    """

    def __init__(self, root: Path, owners: tuple[int, ...] | None = None) -> None:
        """Open `root`, whose own path the guest cannot change. `owners`: uids whose files are read; None: anybody's."""
        self.root = root
        self._owners = owners
        self._descriptor = os.open(root, _FOLDER)

    def __enter__(self) -> GuestTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- reading

    def names(self, folder: str = "") -> list[str]:
        """Return the names of a folder's entries, sorted; [] where it is missing."""
        try:
            with self._folder(folder) as descriptor, os.scandir(descriptor) as entries:
                names = []
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > ENTRIES_LIMIT:
                        raise GuestFileRefused(self.root / folder, f"a folder of more than {ENTRIES_LIMIT} entries")
                return sorted(names)
        except FileNotFoundError:
            return []

    def state(self, name: str) -> GuestFile | None:
        """Return the state of a regular file; None for what is missing or no such file."""
        try:
            with self._opened(name) as (_, state):
                return GuestFile(state.st_size, state.st_mtime_ns)
        except OSError:
            return None

    def has(self, name: str) -> bool:
        """Whether anything of that name is there, of whatever kind. Follows nothing."""
        try:
            with self._parent(name) as (descriptor, last):
                os.stat(last, dir_fd=descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def size(self, folder: str = "") -> int:
        """Return the bytes on disk of all that is in a folder, following nothing; 0 where it is missing.

        Raises GuestFileRefused for more entries or deeper folders than any worker needs.
        """
        total, count, folders = 0, 0, [(folder, 0)]
        while folders:
            inside, depth = folders.pop()
            if depth > DEPTH_LIMIT:
                raise GuestFileRefused(self.root / folder, f"folders more than {DEPTH_LIMIT} deep")
            with suppress(FileNotFoundError), self._folder(inside) as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    count += 1
                    if count > ENTRIES_LIMIT:
                        raise GuestFileRefused(self.root / folder, f"a folder of more than {ENTRIES_LIMIT} entries")
                    with suppress(FileNotFoundError):  # removed at this moment
                        state = entry.stat(follow_symlinks=False)
                        total += state.st_blocks * 512
                        if stat.S_ISDIR(state.st_mode):
                            folders.append((f"{inside}/{entry.name}" if inside else entry.name, depth + 1))
        return total

    def read(self, name: str, limit: int = SMALL_FILE, offset: int = 0) -> bytes:
        """Return a file's bytes from `offset` on, at most `limit`. Refuses a file with more than that."""
        with self._opened(name) as (stream, state):
            if state.st_size - offset > limit:
                raise GuestFileRefused(self.root / name, f"a file of {state.st_size} bytes, {limit} at most")
            stream.seek(offset)
            return stream.read(limit)

    def copy(self, name: str, target: Path, limit: int, *, durable: bool = True) -> int:
        """Copy a file's content to `target`, outside of the tree, whole or not at all. Returns its bytes.

        The copy is the caller's, with the usual mode: neither owner nor set-uid, set-gid or execute bits come along.
        """
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            with self._opened(name) as (stream, state):
                if state.st_size > limit:
                    raise GuestFileRefused(self.root / name, f"a file of {state.st_size} bytes, {limit} at most")
                with open(os.open(aside, _CREATE, 0o666), "wb") as copied:
                    # Not past the size seen: a guest that appends for ever must not keep the host here.
                    left = state.st_size
                    while left and (block := stream.read(min(BLOCK, left))):
                        copied.write(block)
                        left -= len(block)
                    copied.flush()
                    if durable:
                        os.fsync(copied.fileno())
            os.replace(aside, target)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
        return state.st_size - left

    # --- changing

    def copy_folder(self, name: str, target: Path, limit: int) -> None:
        """Copy the files of a folder and of those in it to the folder `target`, which is made; skip all else."""
        with self._folder(name):  # refused before anything is made
            names = self.names(name)
        target.mkdir(exist_ok=True)
        for entry in names:
            inside = f"{name}/{entry}" if name else entry
            try:
                self.copy(inside, target / entry, limit)
            except GuestFileRefused:
                with suppress(GuestFileRefused):
                    if name.count("/") < DEPTH_LIMIT:
                        self.copy_folder(inside, target / entry, limit)

    def make_folder(self, name: str, owner: tuple[int, int] | None = None) -> None:
        """Make a folder, its parent being there. `owner`: uid and gid that it is given, once it is known to be ours.

        Raises FileExistsError.
        """
        with self._parent(name) as (descriptor, last):
            os.mkdir(last, 0o700 if owner is not None else 0o777, dir_fd=descriptor)
            if owner is None:
                return
            made = self._open_folder(last, descriptor)
            try:
                # What is held open is ours: a folder that the guest put in its place would be the guest's.
                if os.fstat(made).st_uid != os.geteuid():
                    raise GuestFileRefused(self.root / name, "a folder that was swapped while it was made")
                os.fchown(made, *owner)
            finally:
                os.close(made)

    def write(self, name: str, content: bytes) -> None:
        """Write a file aside and rename it into place; what stands there by that name is replaced, never followed."""
        with self._parent(name) as (descriptor, last):
            aside = f".{last}.{secrets.token_hex(4)}.tmp"
            try:
                with open(os.open(aside, _CREATE, 0o666, dir_fd=descriptor), "wb") as stream:
                    stream.write(content)
                os.rename(aside, last, src_dir_fd=descriptor, dst_dir_fd=descriptor)
            except BaseException:
                with suppress(OSError):
                    os.unlink(aside, dir_fd=descriptor)
                raise

    def touch(self, name: str) -> None:
        """Make an empty file, or set the time of one that is there to now."""
        with self._parent(name) as (descriptor, last):
            try:
                os.close(os.open(last, _CREATE, 0o666, dir_fd=descriptor))
            except FileExistsError:
                with self._opened(name) as (stream, _):
                    os.utime(stream.fileno())

    def link_to(self, name: str, target: str) -> None:
        """Make a symbolic link for the guest to follow. Raises FileExistsError."""
        with self._parent(name) as (descriptor, last):
            os.symlink(target, last, dir_fd=descriptor)

    def put(self, name: str, source: Path, *, link: bool = False) -> None:
        """Put a file of the host's in: a copy of its content, or a hard link of it (`link`). Raises FileExistsError."""
        with self._parent(name) as (descriptor, last):
            if link:
                os.link(source, last, dst_dir_fd=descriptor, follow_symlinks=False)
                return
            with source.open("rb") as stream, open(os.open(last, _CREATE, 0o666, dir_fd=descriptor), "wb") as copied:
                shutil.copyfileobj(stream, copied, BLOCK)

    def remove(self, name: str) -> bool:
        """Remove a file or link by name; False where there was none."""
        try:
            with self._parent(name) as (descriptor, last):
                os.unlink(last, dir_fd=descriptor)
        except FileNotFoundError:
            return False
        return True

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, following nothing; what cannot be removed stays."""
        with suppress(OSError), self._parent(name) as (descriptor, last):
            state = os.stat(last, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode):
                _empty_folder(last, descriptor)
                os.rmdir(last, dir_fd=descriptor)
            else:
                os.unlink(last, dir_fd=descriptor)

    # --- reaching things

    @contextmanager
    def _folder(self, name: str) -> Iterator[int]:
        """The descriptor of a folder below the root."""
        descriptor = os.dup(self._descriptor)
        try:
            for part in _parts(self.root, name):
                below = self._open_folder(part, descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_folder(self, name: str, parent: int) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise GuestFileRefused(self.root / name, "a link or a file where a folder belongs") from None
            raise

    @contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that an entry is in, and the entry's own name."""
        folder, _, last = name.rpartition("/")
        _parts(self.root, last)
        with self._folder(folder) as descriptor:
            yield descriptor, last

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
        """A regular file with one name, of an expected owner, open for reading, and its state."""
        with self._parent(name) as (descriptor, last):
            try:
                opened = os.open(last, _READ, dir_fd=descriptor)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise GuestFileRefused(self.root / name, "a link or a socket where a file belongs") from None
                raise
        try:
            state = os.fstat(opened)
            reason = self._why_refused(state)
            if reason is not None:
                raise GuestFileRefused(self.root / name, reason)
            with open(opened, "rb", closefd=False) as stream:
                yield stream, state
        finally:
            os.close(opened)

    def _why_refused(self, state: os.stat_result) -> str | None:
        if not stat.S_ISREG(state.st_mode):
            return "no regular file"
        if state.st_nlink != 1:
            return f"a file with {state.st_nlink} names"
        if self._owners is not None and state.st_uid not in self._owners:
            return f"a file of uid {state.st_uid}"
        return None


def _empty_folder(name: str, parent: int) -> None:
    """Remove all that is in a folder, however deep: what is in its folders is moved up until they are empty.

    shutil.rmtree recurses, and a guest can nest folders deeper than Python or its open files allow.
    """
    top = os.open(name, _FOLDER, dir_fd=parent)
    try:
        has_progress = True
        while has_progress:
            has_progress = False
            for entry in _entries(top):
                if _remove_entry(entry, top):
                    has_progress = True
                    continue
                with suppress(OSError):
                    folder = os.open(entry, _FOLDER, dir_fd=top)
                    try:
                        for inner in _entries(folder):
                            has_progress |= _remove_entry(inner, folder) or _move_up(inner, folder, top)
                    finally:
                        os.close(folder)
    finally:
        os.close(top)


def _entries(folder: int) -> list[str]:
    """Return the names in a folder, ENTRIES_LIMIT at most: the others come with the next pass."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in itertools.islice(entries, ENTRIES_LIMIT)]


def _remove_entry(name: str, folder: int) -> bool:
    """Remove a file, a link or an empty folder; return whether it is gone."""
    for remove in (os.unlink, os.rmdir):
        with suppress(OSError):
            remove(name, dir_fd=folder)
            return True
    return False


def _move_up(name: str, folder: int, top: int) -> bool:
    with suppress(OSError):
        os.rename(name, secrets.token_hex(12), src_dir_fd=folder, dst_dir_fd=top)
        return True
    return False


def _parts(root: Path, name: str) -> list[str]:
    parts = name.split("/") if name else []
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise GuestFileRefused(root / name.replace("\0", "?"), "a name that leads elsewhere")
    return parts
