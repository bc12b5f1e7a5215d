"""List the images of folders in the order of their path parts; each folder once, wherever links lead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from orchestrator.inputs.image_ids import ImageId
from orchestrator.inputs.links import LISTED_ALREADY, NOT_REGULAR, FolderId, Links, folder_id
from orchestrator.inputs.signatures import is_image, read_head

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class SkippedFile:
    """A skipped file and the reason."""

    file: str
    reason: str


class SourceImage(NamedTuple):
    """An image of a source: its name below a root, and the folder that contains the file of that name."""

    root: str
    name: str
    folder: str
    image_id: ImageId | None = None
    error: str | None = None
    truth: str | None = None
    missing: str | None = None
    """The error where no file of that name exists."""
    state: os.stat_result | None = None
    """The result of os.lstat, where already known."""
    is_named: bool = False
    """Whether the user named this very file: it is read wherever it leads."""
    data_set: str | None = None
    """The name of its data set, in a list of several."""


_Segment = tuple[str, str]
"""Images of one folder with no other folder between them: the folder's name below the root, which ends in / unless it
is the root itself, and the images' names, joined by /. Packed because there may be ten million."""


def from_folder(root: str, links: Links, skipped: list[SkippedFile]) -> Iterator[SourceImage]:
    """Yield the images below a folder, sorted by the parts of their names; append other files to `skipped`."""
    for folder, names in _FolderWalk(root, links, skipped).segments():
        for name in names.split("/"):
            yield SourceImage(root, folder + name, root)


def has_plain_name(name: str) -> bool:
    """Return whether a name is surely that of an image that is not hidden; quick, as there may be ten million."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".") and "/." not in name and "__" not in name


def refusal(name: str, read: Callable[[], bytes]) -> str | None:
    """Return why a file of a folder or archive is not taken as an image, or None for an image.

    `read` returns its first bytes; it is called only where the extension is not that of an image.
    """
    if has_plain_name(name):
        return None
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    if path.suffix.lower() in EXTENSIONS:
        return None
    try:
        return None if is_image(read()) else f"not an image: {path.suffix or 'no extension'}"
    except OSError as error:
        return f"not an image extension: {path.suffix or 'none'}, and cannot be read: {error.strerror}"


def public_name(name: str) -> str:
    """Return the name as valid text; bytes that are not UTF-8, and what no name can have, become escapes."""
    if name.isascii():
        return name
    try:
        content = os.fsencode(name)
    except UnicodeEncodeError:  # half of a character, written as \ud800 in a JSON file
        content = name.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace").replace(os.sep, "/")


class _FolderWalk:
    """One walk below a root. Folders are told apart by device and inode, so none is listed under two names."""

    def __init__(self, root: str, links: Links, skipped: list[SkippedFile]) -> None:
        self._root, self._links, self._skipped = root, links, skipped
        self._real = os.path.realpath(root)
        self._visited: set[FolderId] = set()
        self._pending = [""]
        """The root, then links to folders: they come after all real folders, so that images keep their real names."""

    def segments(self) -> list[_Segment]:
        """Return the segments of the root and of the folders that links lead to, in order."""
        segments: list[_Segment] = []
        is_linked = False
        while self._pending:
            start = self._pending.pop(0)
            if start:
                real = os.path.realpath(os.path.join(self._root, start))
                reason = self._links.refusal_of_folder(real, self._real)
                if reason is not None:
                    self._skip(start, reason)
                    continue
                is_linked = True
            segments += self._below(start)
        if is_linked:
            # No folder, linked or not, sorts into the middle of a segment, so their first images decide their order.
            segments.sort(key=lambda segment: PurePosixPath(segment[0] + segment[1].partition("/")[0]).parts)
        return segments

    def _below(self, start: str) -> Iterator[_Segment]:
        """Yield the segments of `start` and the real folders below it; note links to folders."""
        waiting: list[_Segment] = [(start, "")]
        while waiting:
            folder, names = waiting.pop()
            if names:
                yield folder, names
                continue
            path = os.path.join(self._root, folder)
            try:
                if self._is_visited(path, is_linked=bool(start)):
                    self._skip(folder, LISTED_ALREADY)
                    continue
                with os.scandir(path) as entries:
                    listed = sorted((entry.name, _kind(entry)) for entry in entries)
            except OSError as error:
                self._skip(os.path.relpath(path, self._root), f"cannot be read: {error.strerror}")
                continue
            self._pending += [f"{folder}{name}/" for name, kind in listed if kind == _LINK]
            waiting += reversed(list(_cut(path, folder, listed, self._skipped)))

    def _is_visited(self, path: str, is_linked: bool) -> bool:
        """Return whether a folder was listed before, else note it. Raises OSError."""
        identity = folder_id(path)
        if identity in self._visited or (is_linked and identity in self._links.visited):
            return True
        self._visited.add(identity)
        if is_linked:
            self._links.visited.add(identity)
        return False

    def _skip(self, name: str, reason: str) -> None:
        self._skipped.append(SkippedFile(public_name(name.rstrip("/")), reason))


_FILE, _FOLDER, _LINK, _OTHER = range(4)


def _kind(entry: os.DirEntry[str]) -> int:
    """Return the kind of an entry; a link to anything but a folder counts as a file, and is examined later."""
    try:
        if entry.is_file(follow_symlinks=False):
            return _FILE
        if entry.is_dir():
            return _LINK if entry.is_symlink() else _FOLDER
        return _FILE if entry.is_symlink() else _OTHER
    except OSError:
        return _FILE


def _cut(path: str, folder: str, listed: list[tuple[str, int]], skipped: list[SkippedFile]) -> Iterator[_Segment]:
    """Yield a folder's images as segments, and between them its folders, each as a segment without names."""
    names: list[str] = []
    for name, kind in listed:
        if kind in (_FILE, _OTHER):
            if kind == _FILE and has_plain_name(folder + name):
                names.append(name)
                continue
            reason = refusal(folder + name, partial(read_head, os.path.join(path, name)))
            if kind == _OTHER and not (reason and reason.startswith("hidden")):
                reason = NOT_REGULAR
            if reason is None:
                names.append(name)
            else:
                skipped.append(SkippedFile(public_name(folder + name), reason))
            continue
        if names:
            yield folder, "/".join(names)
            names = []
        if kind == _FOLDER:
            yield f"{folder}{name}/", ""
    if names:
        yield folder, "/".join(names)
