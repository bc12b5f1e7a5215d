"""Examine, name and number all images of a run's sources, each once, without keeping them in memory."""

from __future__ import annotations

import errno
import gc
import os
import stat
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from orchestrator.errors import UsageError
from orchestrator.inputs.folders import SkippedFile, SourceImage, public_name
from orchestrator.inputs.image_ids import ImageId
from orchestrator.inputs.links import LEADS_OUTSIDE, NOT_REGULAR, Links, is_inside
from orchestrator.inputs.manifest import Images, InputRow, write_images
from orchestrator.inputs.record_buffer import ExaminedImage, RecordBuffer, repeated_hashes

MOST_ROOTS = 32
_MISSING_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def _pause_garbage_collector() -> Iterator[None]:
    """Pause the search for reference cycles: tuples form none, and it takes a sixth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Listing:
    """The images of all sources. Names and ids depend on all of them, so their records are read twice."""

    def __init__(
        self, folder: Path | None, links: Links | None = None, skipped: list[SkippedFile] | None = None
    ) -> None:
        """`folder`: where long lists are kept. Files that are no images after all are appended to `skipped`."""
        self._links = links or Links()
        self._skipped = [] if skipped is None else skipped
        self._records = RecordBuffer(folder)
        self._hashes = array("q")
        self._roots: dict[str, str] = {}
        """Real paths of the roots that are folders; "" for other roots."""
        self._folders: set[str] = set()
        self._root = self._folder = self._real = ""
        """The last image's root, folder, and real path of the folder."""
        self._is_mounted = False
        """Whether the last image's folder is below a root or another folder that the user named."""
        self._has_escapes = self._has_ids = False

    @property
    def count(self) -> int:
        """Number of images so far, repeated ones included."""
        return len(self._hashes)

    @_pause_garbage_collector()
    def add(self, images: Iterable[SourceImage]) -> None:
        """Record the next images, each with its size and time, or the reason why it cannot be read."""
        self._records.extend(self._examine_all(images))

    def _examine_all(self, images: Iterable[SourceImage]) -> Iterator[ExaminedImage]:
        roots, append, examine = self._roots, self._hashes.append, self._examine
        for root, name, folder, image_id, error, truth, missing, state, is_named, data_set in images:
            full = f"{root}/{name}" if root != "/" else f"/{name}"
            location = full if folder == root else f"{folder}/{name}"
            if ".." in full:
                full = os.path.normpath(full)
            if root not in roots:
                roots[root] = os.path.realpath(root) if Path(root).is_dir() else ""
            real, size, mtime_ns = None, 0, 0
            if error is None:
                try:
                    real, size, mtime_ns, error = examine(root, location, full, missing, state, is_named)
                except _NoImage as no_image:
                    self._skipped.append(SkippedFile(public_name(name), str(no_image)))
                    continue
            if full.isascii():
                append(hash(full))
            else:
                public = public_name(full)
                self._has_escapes = self._has_escapes or public != full
                append(hash(public))
            if image_id is not None:
                self._has_ids = True
            yield full, real, size, mtime_ns, error, image_id, truth, data_set

    def _examine(
        self, root: str, location: str, full: str, missing: str | None, state: os.stat_result | None, is_named: bool
    ) -> tuple[str | None, int, int, str | None]:
        """Return a file's real path where it differs from its full name, its size, time and error.

        Raises _NoImage for a file that a folder or pattern gave and that is skipped; a listed one (`missing`) has an
        error instead.
        """
        try:
            state = state or os.lstat(location)
            is_link = stat.S_ISLNK(state.st_mode)
            if is_link:
                state = Path(location).stat()
        except (OSError, ValueError) as error:
            is_unreadable = missing is None or getattr(error, "errno", errno.ENOENT) not in _MISSING_ERRNOS
            return None, 0, 0, getattr(error, "strerror", None) or str(error) if is_unreadable else missing
        if not stat.S_ISREG(state.st_mode):
            if missing is None and not is_named:
                raise _NoImage(NOT_REGULAR)
            return None, 0, 0, missing or NOT_REGULAR
        folder, _, name = location.rpartition("/")
        if is_link:
            real = os.path.realpath(location)
            is_mounted = self._add_folder(root, real.rpartition("/")[0])
        else:
            if folder != self._folder or root != self._root:
                self._root, self._folder = root, folder
                self._real = os.path.realpath(folder or "/").rstrip("/")
                self._is_mounted = self._add_folder(root, self._real)
            real = full if self._real == folder and location == full else f"{self._real}/{name}"
            is_mounted = self._is_mounted
        if not is_mounted:
            if not is_named and not self._links.follow:
                if missing is None:
                    raise _NoImage(LEADS_OUTSIDE)
                return None, 0, 0, LEADS_OUTSIDE
            staged, name = self._links.stage(real)
            self._folders.add(staged)
            real = f"{staged}/{name}"
        return None if real == full else real, state.st_size, state.st_mtime_ns, None

    def _add_folder(self, root: str, folder: str) -> bool:
        """Note the named folder that contains the real folder of a readable image, for mounting; False: none does."""
        folder, inside = folder or "/", self._roots[root]
        if not inside:  # an archive's images, which orch unpacked
            self._folders.add(folder)
            return True
        mounted = inside if is_inside(folder, inside) else self._links.named_folder(folder)
        if mounted is not None:
            self._folders.add(mounted)
        return mounted is not None

    @_pause_garbage_collector()
    def images(self, folder: Path | None, skipped: list[SkippedFile]) -> tuple[Images, tuple[Path, ...]]:
        """Return all images in order, each once, named relative to the common folder of all sources, and the roots."""
        roots = _mount_roots(self._folders)
        suspects: Collection[int] = repeated_hashes(self._hashes)
        if suspects and self._has_escapes:
            suspects = _AllHashes()
        base = os.path.commonpath(list(self._roots)).rstrip("/") + "/"
        given = self._collect_ids(suspects, base) if self._has_ids else {}
        self._hashes = array("q")
        return write_images(self._rows(suspects, base, skipped, given, roots), folder), tuple(map(Path, roots))

    def _rows(
        self,
        suspects: Collection[int],
        base: str,
        skipped: list[SkippedFile],
        given: Mapping[ImageId, str],
        roots: Sequence[str],
    ) -> Iterator[InputRow]:
        free, last, mounted = 0, None, ""
        for position, (file, item) in enumerate(self._with_names(suspects, base, skipped), 1):
            full, real, size, mtime_ns, error, image_id, truth, data_set = item
            free = max(free + 1, position)
            if image_id is None:
                while free in given:
                    free += 1
                image_id = free
            path = ""
            if error is None:
                inside, _, name = (real or full).rpartition("/")
                if inside != last:
                    last, mounted = inside, _guest_prefix(inside, roots)
                path = mounted + name
            yield file, path, image_id, size, mtime_ns, error, truth, data_set

    def _collect_ids(self, suspects: Collection[int], base: str) -> dict[ImageId, str]:
        """Return the images by COCO's ids; images of other sources get free numbers, from their position up."""
        given: dict[ImageId, str] = {}
        for file, (_, _, _, _, _, image_id, *_) in self._with_names(suspects, base, []):
            if image_id is None:
                continue
            if image_id in given:
                raise UsageError(
                    f"two images have the id {image_id!r}: {given[image_id]} and {file}",
                    hint="use a run of its own for each COCO file whose ids occur in another one",
                )
            given[image_id] = file
        return given

    def _with_names(
        self, suspects: Collection[int], base: str, skipped: list[SkippedFile]
    ) -> Iterator[tuple[str, ExaminedImage]]:
        """Yield the images by their public names, each once. Only names with a suspect hash can repeat."""
        seen: dict[str, str] = {}
        skip = len(public_name(base))
        for item in self._records:
            full = item[0]
            public = full if full.isascii() else public_name(full)
            file = public[skip:]
            if suspects and hash(public) in suspects:
                name, copy = PurePosixPath(file), 2
                while seen.get(file, full) != full:
                    # Another file whose name reads the same once its odd bytes are escapes.
                    file, copy = str(name.with_stem(f"{name.stem}~{copy}")), copy + 1
                if file in seen:
                    skipped.append(SkippedFile(file, "named twice"))
                    continue
                seen[file] = full
            yield file, item


class _NoImage(Exception):
    """A file that is skipped; the message is the reason."""


class _AllHashes(Collection[int]):
    """Contains every hash: for names with escapes, whose hashes were not counted under the final name."""

    def __contains__(self, value: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


def _mount_roots(folders: Collection[str]) -> tuple[str, ...]:
    """Return the fewest folders that contain all readable files."""
    outermost = [path for path in map(Path, folders) if not any(str(above) in folders for above in path.parents)]
    if len(outermost) > MOST_ROOTS:
        common = Path(os.path.commonpath(outermost))
        if common == common.parent:
            raise UsageError(
                f"the images are in {len(outermost)} folders without a common parent folder",
                hint="link or copy them into one folder, or use several runs",
            )
        outermost = [common]
    return tuple(map(str, sorted(outermost)))


def _guest_prefix(folder: str, roots: Sequence[str]) -> str:
    """Return the prefix of guest paths of a folder's files: the number of its root and the path below it."""
    number = next(number for number, root in enumerate(roots) if is_inside(folder or "/", root))
    below = folder[len(roots[number].rstrip("/")) :]
    return f"{number}{below}/"
