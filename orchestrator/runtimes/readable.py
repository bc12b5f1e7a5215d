"""Give workers what their user cannot read: copies of images and weights for the time of a run.

Workers of root run as nobody, who cannot read files of mode 0600. Copies are made of such files only, below a folder
that nobody else on the machine can enter; workers see them read-only.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from orchestrator.errors import MachineError
from orchestrator.inputs import InputImage
from orchestrator.system import RESERVE, Report, replace_file

_SUFFIX_LENGTH = 16
HINT = "make the files readable for everybody (chmod -R o+rX), or have workers run as a user who reads them: --user UID"


def can_read(state: os.stat_result, uid: int, gid: int) -> bool:
    """Return whether the mode bits let a user read a file, or list and enter a folder. ACLs are not considered."""
    bits = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(state.st_mode) else 0)
    return _allows(state, uid, gid, bits)


def can_enter(state: os.stat_result, uid: int, gid: int) -> bool:
    """Return whether the mode bits let a user reach the files in a folder whose names are known."""
    return _allows(state, uid, gid, stat.S_IXOTH)


def _allows(state: os.stat_result, uid: int, gid: int, bits: int) -> bool:
    """Return whether a user has the rights `bits`, given as those of others; only one class of users counts."""
    if uid == 0:
        return True
    shift = 6 if state.st_uid == uid else 3 if state.st_gid == gid else 0
    return state.st_mode & (bits << shift) == bits << shift


class ReadableImages:
    """The images of a run as its workers see them: an image that their user cannot read is a copy.

    Copies are made when a shard is given to a worker, and removed once the shard is finished.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        images_of: Callable[[int], Sequence[InputImage]],
        user: tuple[int, int] | None,
        folder: Path,
        is_finished: Callable[[int], bool],
        say: Report,
    ) -> None:
        """`user`: whom workers run as, None: the caller, who reads all. `folder`: for copies; it is made."""
        self._originals, self._images_of, self._user = roots, images_of, user
        self._copies, self._is_finished, self._say = folder / "images", is_finished, say
        self._copied: set[int] = set()
        self._has_said = False
        self._folders: dict[Path, bool] = {}
        """Whether the worker's user can enter a folder, seen from its root."""
        self.roots: Sequence[Path] = roots
        """The folders that are mounted, the one of the copies among them."""
        if user is not None:
            make_private(folder)
            self._copies.mkdir(mode=0o755)
            self._copies.chmod(0o755)
            self.roots = [*roots, self._copies]

    def images_of(self, number: int) -> Sequence[InputImage]:
        """Return the images of a shard. Raises MachineError where the disk is too full for copies."""
        images = self._images_of(number)
        if self._user is None:
            return images
        unreadable = [image for image in images if image.error is None and not self._is_readable(image)]
        if not unreadable:
            return images
        for done in [copied for copied in self._copied if self._is_finished(copied)]:
            shutil.rmtree(self._copies / f"{done:05d}", ignore_errors=True)
            self._copied.remove(done)
        if not self._has_said:
            self._has_said, uid = True, self._user[0]
            self._say(f"workers run as uid {uid}, who cannot read {unreadable[0].file} and maybe others: using copies")
        self._copied.add(number)
        require_room(self._copies, sum(image.size for image in unreadable), f"copies of images for uid {self._user[0]}")
        paths = {image.index: self._copy(number, image) for image in unreadable}
        return [replace(image, path=paths.get(image.index) or image.path) for image in images]

    def _is_readable(self, image: InputImage) -> bool:
        assert self._user is not None
        path = self._locate(image)
        root = self._originals[int(image.path.partition("/")[0])]
        try:
            return self._can_enter(path.parent, root) and can_read(path.stat(), *self._user)
        except OSError:
            return True  # its worker reports what is wrong

    def _can_enter(self, folder: Path, root: Path) -> bool:
        """Return whether the worker can enter a folder and those above it up to its root, the first it sees."""
        assert self._user is not None
        if folder not in self._folders:
            above = folder == root or folder == folder.parent or self._can_enter(folder.parent, root)
            self._folders[folder] = above and can_enter(folder.stat(), *self._user)
        return self._folders[folder]

    def _copy(self, number: int, image: InputImage) -> str | None:
        """Return the worker's path of a copy; None where the image cannot be read, which its worker reports."""
        suffix = PurePosixPath(image.path).suffix[:_SUFFIX_LENGTH]
        name = f"{number:05d}/{image.index:08d}{suffix}"
        with suppress(OSError), _full_disk_named(self._copies):
            if not (self._copies / name).exists():
                copy_for_all(self._locate(image), self._copies / name)
            return f"{len(self._originals)}/{name}"
        return None

    def _locate(self, image: InputImage) -> Path:
        root, _, rest = image.path.partition("/")
        return self._originals[int(root)] / rest


def readable_weights(weights: Path, user: tuple[int, int] | None, folder: Path, say: Report) -> Path:
    """Return the folder of weights, or a copy of it where the workers' user cannot read it. Raises MachineError.

    The copy is made in `folder` unless it is there.
    """
    copy = folder / "weights"
    if user is None or not weights.is_dir():
        return weights
    if not copy.exists():
        files = [path for path in weights.rglob("*") if not path.name.startswith(".")]
        if all(can_read(path.stat(), *user) for path in [weights, *files]):
            return weights
        say(f"workers run as uid {user[0]}, who cannot read {weights}: using a copy")
        make_private(folder)
        plain = [path for path in files if path.is_file()]
        require_room(folder, sum(path.stat().st_size for path in plain), f"a copy of {weights} for uid {user[0]}")
        with _full_disk_named(folder):
            copy.mkdir(mode=0o755)
            copy.chmod(0o755)
            for path in plain:
                copy_for_all(path, copy / path.relative_to(weights))
    return copy


def make_private(folder: Path) -> None:
    """Make a folder that only the caller can enter, unless it is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def copy_for_all(source: Path, target: Path) -> None:
    """Copy a regular file, with its time, to a name whose folder, and itself, everybody can read who can come there."""
    with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(source))
        missing = [parent for parent in target.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir()
            parent.chmod(0o755)
        with replace_file(target, durable=False, mode=0o644) as copied:
            shutil.copyfileobj(stream, copied, 1 << 20)
            copied.flush()
            os.utime(copied.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))  # workers compare it with the listing


def require_room(folder: Path, size: int, what: str) -> None:
    """Raise MachineError where a disk has too little space for copies."""
    free = shutil.disk_usage(folder).free
    if size + RESERVE > free:
        why = f"{what} need {size / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free"
        raise MachineError("not enough disk space for copies of files that workers cannot read", why=why, hint=HINT)


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into a MachineError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f"the disk of {folder} is full", why=error.strerror, hint=HINT) from error
        raise
