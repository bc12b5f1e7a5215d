"""List the images of folders in the order of their path parts; links to folders are followed once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

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
    image_id: int | None = None
    error: str | None = None
    truth: str | None = None
    missing: str | None = None
    """The error where no file of that name exists."""
    state: os.stat_result | None = None
    """The result of os.lstat, where already known."""


_Segment = tuple[str, str]
"""Images of one folder with no other folder between them: the folder's name below the root, which ends in / unless it
is the root itself, and the images' names, joined by /. Packed because there may be ten million."""


def from_folder(root: str, skipped: list[SkippedFile]) -> Iterator[SourceImage]:
    """Yield the images below a folder, sorted by the parts of their names; append other files to `skipped`."""
    for folder, names in _segments(root, skipped):
        for name in names.split("/"):
            yield SourceImage(root, folder + name, root)


def refusal(name: str) -> str | None:
    """Return why a file of a folder or archive is not taken as an image, or None for an image."""
    if name.lower().endswith(EXTENSIONS) and not name.startswith(".") and "/." not in name and "__" not in name:
        return None
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    if path.suffix.lower() not in EXTENSIONS:
        return f"not an image extension: {path.suffix or 'none'}"
    return None


def public_name(name: str) -> str:
    """Return the name as valid text; bytes that are not UTF-8 become escapes."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def _segments(root: str, skipped: list[SkippedFile]) -> list[_Segment]:
    visited: set[str] = set()
    segments: list[_Segment] = []
    pending = [""]
    linked = False
    while pending:  # links come after all real folders, so that images keep their real names
        start = pending.pop(0)
        if os.path.realpath(os.path.join(root, start)) in visited:
            skipped.append(SkippedFile(public_name(start.rstrip("/")), "a link to a folder that is listed"))
            continue
        segments += _below(root, start, pending, visited, skipped)
        linked = linked or bool(start)
    if linked:
        # No folder, linked or not, sorts into the middle of a segment, so their first images decide their order.
        segments.sort(key=lambda segment: PurePosixPath(segment[0] + segment[1].partition("/")[0]).parts)
    return segments


def _below(
    root: str, start: str, pending: list[str], visited: set[str], skipped: list[SkippedFile]
) -> Iterator[_Segment]:
    """Yield the segments of `start` and the real folders below it; append links to folders to `pending`."""
    waiting: list[_Segment] = [(start, "")]
    while waiting:
        folder, names = waiting.pop()
        if names:
            yield folder, names
            continue
        path = os.path.join(root, folder)
        try:
            with os.scandir(path) as entries:
                listed = sorted((entry.name, _kind(entry)) for entry in entries)
        except OSError as error:
            name = public_name(os.path.relpath(path, root))
            skipped.append(SkippedFile(name, f"cannot be read: {error.strerror}"))
            continue
        visited.add(os.path.realpath(path))
        pending += [f"{folder}{name}/" for name, kind in listed if kind == _LINK]
        waiting += reversed(list(_cut(folder, listed, skipped)))


_FILE, _FOLDER, _LINK = range(3)


def _kind(entry: os.DirEntry[str]) -> int:
    try:
        if not entry.is_dir():
            return _FILE
    except OSError:
        return _FILE
    return _LINK if entry.is_symlink() else _FOLDER


def _cut(folder: str, listed: list[tuple[str, int]], skipped: list[SkippedFile]) -> Iterator[_Segment]:
    """Yield a folder's images as segments, and between them its folders, each as a segment without names."""
    names: list[str] = []
    for name, kind in listed:
        if kind == _FILE:
            reason = refusal(folder + name)
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
