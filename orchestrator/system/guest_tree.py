"""The one door to folders that a guest can write: no link, FIFO, mode or name found there is trusted.

Every file is reached from the descriptor of the tree's root, component by component with O_NOFOLLOW, so a folder
that the guest swaps for a link is refused, not followed. Content is copied out; nothing is moved, linked or handed
over by name, and nothing that the guest may swap is chowned or chmodded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
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
_SHARED = stat.S_ISGID | stat.S_IRWXG
_DEPTH = 64
"""Levels that are removed one within another; deeper ones are moved up first, so that no stack overflows."""
_AT_ONCE = 1000
_REMOVE_SECONDS = 60.0
"""A guest that makes files faster than they are removed does not keep the host for longer."""


class GuestFileRefused(OSError):
    """A guest left something that is not what it should be; `reason` says what. An OSError, as of a missing file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, str(path))
        self.reason = reason


@dataclass(frozen=True)
class GuestFile:
    """State of a regular file: its size in bytes, the time of its last change in nanoseconds, and its owner."""

    size: int
    mtime_ns: int
    uid: int


class GuestTree:
    """A folder that a guest can write, held open by descriptor.

    Names are relative to the root, "/"-separated, without "." and "..". All methods raise FileNotFoundError for what is
    missing, GuestFileRefused for what is no regular file or folder of an expected owner, and OSError. What is made can
    be read by all who reach the root; in a set-group-id root that a group can write, it can be written by that group.
    """

    def __init__(self, root: Path, owners: tuple[int, ...] | None = None, *, descriptor: int | None = None) -> None:
        """Open `root`, whose own path the guest cannot change. `owners`: uids whose files are read; None: anybody's.

        `descriptor`: the folder, opened already, that is closed with the tree.
        """
        self.root = root
        self._owners = owners
        self._descriptor = os.open(root, _FOLDER) if descriptor is None else descriptor

    def __enter__(self) -> GuestTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def below(self, name: str, owners: tuple[int, ...] | None = None) -> GuestTree:
        """Open a folder as a tree of its own: it stays that folder whatever is renamed."""
        with self._folder(name) as descriptor:
            return GuestTree(self.root / name, owners, descriptor=os.dup(descriptor))

    def status(self) -> os.stat_result:
        """Return owner, mode and identity of the root itself."""
        return os.fstat(self._descriptor)

    def set_mode(self, mode: int) -> None:
        """Set the mode of the root itself, which must be the caller's."""
        os.fchmod(self._descriptor, mode)

    @property
    def is_shared(self) -> bool:
        """Whether a group works in the tree: its root is set-group-id and the group may write."""
        return self.status().st_mode & _SHARED == _SHARED

    # --- reading

    def clock_ns(self) -> int:
        """Return the time by the file system's own clock, which file times are compared with. Raises OSError.

        The clock of a file server, or of another machine that writes there, may differ from this machine's.
        """
        name = f".{secrets.token_hex(4)}.clock.tmp"
        descriptor = self._create(name, self._descriptor)
        try:
            return os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(name, dir_fd=self._descriptor)

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
                return GuestFile(state.st_size, state.st_mtime_ns, state.st_uid)
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

    def read_block(self, name: str, offset: int, limit: int = BLOCK) -> bytes:
        """Return the next bytes of a file that grows, from `offset` on, at most `limit`; b"" where there are none."""
        with self._opened(name) as (stream, state):
            return os.pread(stream.fileno(), max(0, min(limit, state.st_size - offset)), offset)

    def is_locked(self, name: str) -> bool:
        """Whether a process of this kernel holds the lock (flock) of a file."""
        try:
            with self._opened(name) as (stream, _):
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

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
            os.mkdir(last, 0o700, dir_fd=descriptor)
            made = self._open_folder(last, descriptor)
            try:
                # What is held open is ours: a folder that the guest put in its place would be the guest's.
                if os.fstat(made).st_uid != os.geteuid():
                    raise GuestFileRefused(self.root / name, "a folder that was swapped while it was made")
                if self.is_shared:
                    os.fchmod(made, 0o2770)
                elif owner is None:
                    os.fchmod(made, 0o755)
                else:
                    os.fchown(made, *owner)
            finally:
                os.close(made)

    def make_folders(self, name: str) -> None:
        """Make a folder and its parents, as far as they are missing."""
        parts = _parts(self.root, name)
        for number in range(1, len(parts) + 1):
            with suppress(FileExistsError):
                self.make_folder("/".join(parts[:number]))
        with self._folder(name):  # refuses what stands there instead of a folder
            pass

    def write(self, name: str, content: bytes) -> None:
        """Write a file aside and rename it into place; what stands there by that name is replaced, never followed."""
        with self._parent(name) as (descriptor, last), self._replacing(last, descriptor) as stream:
            stream.write(content)

    def touch(self, name: str) -> None:
        """Make an empty file, or set the time of one that is there to now."""
        with self._parent(name) as (descriptor, last):
            try:
                os.close(self._create(last, descriptor))
            except FileExistsError:
                with self._opened(name) as (stream, _):
                    os.utime(stream.fileno())

    def link_to(self, name: str, target: str) -> None:
        """Make a symbolic link for the guest to follow. Raises FileExistsError."""
        with self._parent(name) as (descriptor, last):
            os.symlink(target, last, dir_fd=descriptor)

    def put(self, name: str, source: Path) -> None:
        """Copy the content and time of a file of the host's in, whole or not at all; what stands there is replaced."""
        with (
            self._parent(name) as (descriptor, last),
            open(_open_source(source), "rb") as stream,
            self._replacing(last, descriptor) as copied,
        ):
            shutil.copyfileobj(stream, copied, BLOCK)
            copied.flush()
            # The time that the source has now: a source that was changed meanwhile is not what was listed.
            state = os.fstat(stream.fileno())
            os.utime(copied.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))

    def put_link(self, name: str, source: Path, reader: int) -> bool:
        """Hard-link a file of the host's in, if the uid `reader` can read it and never write it; return whether.

        Raises OSError where files cannot be linked at all, such as from another file system.
        """
        with self._parent(name) as (descriptor, last), open(_open_source(source), "rb") as stream:
            state = os.fstat(stream.fileno())
            if state.st_uid == reader or state.st_mode & 0o022 or not state.st_mode & 0o004:
                return False
            os.link(f"/proc/self/fd/{stream.fileno()}", last, dst_dir_fd=descriptor, follow_symlinks=True)
            return True

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
            if not stat.S_ISDIR(state.st_mode):
                os.unlink(last, dir_fd=descriptor)
                return
            with self._folder(name) as folder:
                until = time.monotonic() + _REMOVE_SECONDS
                while _empty(folder, folder, _DEPTH, until):
                    pass
            os.rmdir(last, dir_fd=descriptor)

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

    def _create(self, name: str, parent: int) -> int:
        """Create a file for writing, whatever the process's umask is: another user's worker has to read it."""
        created = os.open(name, _CREATE, 0o600, dir_fd=parent)
        os.fchmod(created, 0o660 if self.is_shared else 0o644)
        return created

    @contextmanager
    def _replacing(self, name: str, parent: int) -> Iterator[BinaryIO]:
        """A new file that is renamed to `name` at the end of the block; after an error nothing is left of it."""
        aside = f".{secrets.token_hex(8)}.tmp"
        try:
            with open(self._create(aside, parent), "wb") as stream:
                yield stream
            os.rename(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside, dir_fd=parent)
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


def _parts(root: Path, name: str) -> list[str]:
    parts = name.split("/") if name else []
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise GuestFileRefused(root / name.replace("\0", "?"), "a name that leads elsewhere")
    return parts


def _open_source(path: Path) -> int:
    """Open a file of the host's; nothing else, so that a FIFO among the images keeps nobody waiting."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return opened


def _empty(folder: int, top: int, depth: int, until: float) -> bool:
    """Remove what is in a folder, following nothing; return whether anything was removed or moved to `top`.

    `until`: the monotonic time after which nothing more is removed.
    """
    has_changed = False
    if time.monotonic() > until:
        return False
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _AT_ONCE)]
    for name, is_folder in listed:
        with suppress(OSError):
            if not is_folder:
                os.unlink(name, dir_fd=folder)
            elif depth == 0:
                os.rename(name, f".deep-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
            else:
                below = os.open(name, _FOLDER, dir_fd=folder)
                try:
                    while _empty(below, top, depth - 1, until):
                        has_changed = True
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=folder)
            has_changed = True
    return has_changed
