"""All images that the sources of a run gave: examined, named, numbered, each once, none of them kept in memory."""

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
from orchestrator.inputs.manifest import Images, InputRow, write_images
from orchestrator.inputs.record_buffer import ExaminedImage, RecordBuffer, repeated

MOST_ROOTS = 32
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Millions of tuples come and go, no cycle among them: looking for cycles costs a sixth of the whole."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Listing:
    """What all sources gave. Names and ids depend on all of it, so that it is gone through twice."""

    def __init__(self, folder: Path | None) -> None:
        self._records = RecordBuffer(folder)
        self._hashes = array("q")
        self._roots: dict[str, str] = {}
        """Real paths of the roots that are folders, "" for the others."""
        self._folders: set[str] = set()
        self._root = self._folder = self._real = ""
        """Of the last image: its root, its folder, and where that is really."""
        self._odd = self._numbered = False

    @property
    def count(self) -> int:
        """Images so far, those named twice included."""
        return len(self._hashes)

    @_uncollected()
    def take(self, items: Iterable[SourceImage]) -> None:
        """Take the next images, each with its size and time, or the reason why it cannot be read."""
        self._records.extend(self._examined(items))

    def _examined(self, items: Iterable[SourceImage]) -> Iterator[ExaminedImage]:
        roots, append, examine = self._roots, self._hashes.append, self._examine
        for root, name, place, image_id, error, truth, missing, state in items:
            full = f"{root}/{name}" if root != "/" else f"/{name}"
            location = full if place == root else f"{place}/{name}"
            if ".." in full:
                full = os.path.normpath(full)
            if full.isascii():
                append(hash(full))
            else:
                public = public_name(full)
                self._odd = self._odd or public != full
                append(hash(public))
            if image_id is not None:
                self._numbered = True
            if root not in roots:
                roots[root] = os.path.realpath(root) if Path(root).is_dir() else ""
            if error is None:
                real, size, mtime_ns, error = examine(root, location, full, missing, state)
                yield full, real, size, mtime_ns, error, image_id, truth
            else:
                yield full, None, 0, 0, error, image_id, truth

    def _examine(
        self, root: str, location: str, full: str, missing: str | None, state: os.stat_result | None
    ) -> tuple[str | None, int, int, str | None]:
        """Real path of a file where that is not its full name, size, time, error."""
        try:
            state = state or os.lstat(location)
            linked = stat.S_ISLNK(state.st_mode)
            if linked:
                state = Path(location).stat()
        except (OSError, ValueError) as error:
            there = missing is None or getattr(error, "errno", errno.ENOENT) not in _NOT_THERE
            return None, 0, 0, getattr(error, "strerror", None) or str(error) if there else missing
        if not stat.S_ISREG(state.st_mode):
            return None, 0, 0, missing or "not a regular file"
        folder, _, name = location.rpartition("/")
        if linked:
            real = os.path.realpath(location)
            self._hold(root, real.rpartition("/")[0])
        else:
            if folder != self._folder or root != self._root:
                self._root, self._folder = root, folder
                self._real = os.path.realpath(folder or "/").rstrip("/")
                self._hold(root, self._real)
            real = full if self._real == folder and location == full else f"{self._real}/{name}"
        return None if real == full else real, state.st_size, state.st_mtime_ns, None

    def _hold(self, root: str, folder: str) -> None:
        """A readable image lies in the real folder: it must be mounted, as part of the root where it is in it."""
        folder, inside = folder or "/", self._roots[root]
        self._folders.add(inside if inside and _lies_in(folder, inside) else folder)

    @_uncollected()
    def images(self, folder: Path | None, skipped: list[SkippedFile]) -> tuple[Images, tuple[Path, ...]]:
        """All images in order, each once, by their names relative to what all sources have in common."""
        roots = _mount_roots(self._folders)
        suspects: Collection[int] = repeated(self._hashes)
        if suspects and self._odd:
            suspects = _Everything()
        base = os.path.commonpath(list(self._roots)).rstrip("/") + "/"
        given = self._given_ids(suspects, base) if self._numbered else {}
        self._hashes = array("q")
        return write_images(self._rows(suspects, base, skipped, given, roots), folder), tuple(map(Path, roots))

    def _rows(
        self,
        suspects: Collection[int],
        base: str,
        skipped: list[SkippedFile],
        given: Mapping[int, str],
        roots: Sequence[str],
    ) -> Iterator[InputRow]:
        free, last, mounted = 0, None, ""
        for position, (file, item) in enumerate(self._named(suspects, base, skipped), 1):
            full, real, size, mtime_ns, error, image_id, truth = item
            free = max(free + 1, position)
            if image_id is None:
                while free in given:
                    free += 1
                image_id = free
            path = ""
            if error is None:
                inside, _, name = (real or full).rpartition("/")
                if inside != last:
                    last, mounted = inside, _mounted(inside, roots)
                path = mounted + name
            yield file, path, image_id, size, mtime_ns, error, truth

    def _given_ids(self, suspects: Collection[int], base: str) -> dict[int, str]:
        """COCO's own ids; the images of other sources get the numbers that are free, from their position up."""
        given: dict[int, str] = {}
        for file, (_, _, _, _, _, image_id, _) in self._named(suspects, base, []):
            if image_id is None:
                continue
            if image_id in given:
                raise UsageError(
                    f"two images have the id {image_id}: {given[image_id]} and {file}",
                    hint="give COCO files that number their images alike in runs of their own",
                )
            given[image_id] = file
        return given

    def _named(
        self, suspects: Collection[int], base: str, skipped: list[SkippedFile]
    ) -> Iterator[tuple[str, ExaminedImage]]:
        """The images by their public names, each once. Only names with a suspect hash can be there already."""
        met: dict[str, str] = {}
        skip = len(public_name(base))
        for item in self._records:
            full = item[0]
            public = full if full.isascii() else public_name(full)
            file = public[skip:]
            if suspects and hash(public) in suspects:
                name, copy = PurePosixPath(file), 2
                while met.get(file, full) != full:
                    # Another file whose name, with odd bytes written as escapes, reads the same.
                    file, copy = str(name.with_stem(f"{name.stem}~{copy}")), copy + 1
                if file in met:
                    skipped.append(SkippedFile(file, "named twice"))
                    continue
                met[file] = full
            yield file, item


class _Everything(Collection[int]):
    """Has every hash in it: what is needed where made-up names might be met again."""

    def __contains__(self, value: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1


def _lies_in(folder: str, other: str) -> bool:
    return folder == other or folder.startswith(other.rstrip("/") + "/")


def _mount_roots(folders: Collection[str]) -> tuple[str, ...]:
    """The fewest folders that hold all readable files, where links point outside as well as where they stand."""
    outermost = [one for one in map(Path, folders) if not any(str(above) in folders for above in one.parents)]
    if len(outermost) > MOST_ROOTS:
        common = Path(os.path.commonpath(outermost))
        if common == common.parent:
            raise UsageError(
                f"the images lie in {len(outermost)} folders with nothing in common",
                hint="link or copy them into one folder, or run them in parts",
            )
        outermost = [common]
    return tuple(map(str, sorted(outermost)))


def _mounted(folder: str, roots: Sequence[str]) -> str:
    """What paths of the files in a folder begin with: the number of its root, and the way from there."""
    number = next(number for number, root in enumerate(roots) if _lies_in(folder or "/", root))
    below = folder[len(roots[number].rstrip("/")) :]
    return f"{number}{below}/"
