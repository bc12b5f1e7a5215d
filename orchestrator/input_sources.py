"""The kinds of sources a user may name images by, each read into a list of what was found and what was left out."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.archives import is_archive, unpack
from orchestrator.errors import UsageError
from orchestrator.files import write_json
from orchestrator.manipulation_data import IMAGES, MASKS, Samples, is_tp_gt, read_json, read_tp_gt

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_DONE = "unpacked.json"


@dataclass(frozen=True)
class Ignored:
    """A file that was met and left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Found:
    """An image as its source gave it: a root, the name below it, and where the bytes are."""

    root: Path
    name: str
    location: Path
    image_id: int | None = None
    error: str | None = None
    size: int = 0
    mtime_ns: int = 0
    truth: str | None = None


def from_source(
    source: str, unpack_to: Path, image_root: Path | None, ignored: list[Ignored], notes: list[str]
) -> list[Found]:
    """The images of one source; adds to `ignored` what it left out and to `notes` what a user should know.

    Raises UsageError where there is no such source or it cannot be understood, OSError where it cannot be read.
    """
    path = expanded(source)
    if path.is_dir() and is_tp_gt(path):
        notes.append(f"{path} is a data set: its images are those in {IMAGES}, their masks those in {MASKS}")
        return _from_samples(path / IMAGES, read_tp_gt(_absolute(path)), notes)
    if path.is_dir():
        return _from_folder(_absolute(path), ignored)
    if not path.exists() and not path.is_symlink():
        if glob.has_magic(source):
            return _from_glob(path, ignored)
        raise UsageError(f"there is no file or folder {source}")
    path = _absolute(path)
    if is_archive(path):
        return _from_archive(path, unpack_to, ignored)
    if path.suffix.lower() == ".txt":
        return _from_list(path)
    if path.suffix.lower() == ".json":
        return _from_json(path, image_root, notes)
    return [Found(path.parent, path.name, path)]


def expanded(name: str) -> Path:
    """The path with ~ replaced by the home folder it stands for, if it stands for one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ begins the name of no user, but perhaps that of a file
        return Path(name)


def _absolute(path: Path) -> Path:
    """The absolute path without `..`, which would lead public names out of their folder."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _refusal(name: str) -> str | None:
    """Why a file met in a folder or archive is not taken as an image; None if it is."""
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden"
    if path.suffix.lower() not in EXTENSIONS:
        return f"not an image extension: {path.suffix or 'none'}"
    return None


def _from_folder(root: Path, ignored: list[Ignored]) -> list[Found]:
    found: list[Found] = []
    visited: set[str] = set()

    def report(error: OSError) -> None:
        name = public_name(os.path.relpath(error.filename, root))
        ignored.append(Ignored(name, f"cannot be read: {error.strerror}"))

    pending = [str(root)]
    while pending:  # links wait until all real folders were seen, so that images keep their real names
        start = pending.pop(0)
        if os.path.realpath(start) in visited:
            ignored.append(Ignored(public_name(os.path.relpath(start, root)), "a link to a folder that is listed"))
            continue
        for folder, folders, files in os.walk(start, onerror=report):
            visited.add(os.path.realpath(folder))
            pending += sorted(str(path) for path in map(Path(folder).joinpath, folders) if path.is_symlink())
            found += _in_folder(root, Path(folder), files, ignored)
    return sorted(found, key=lambda item: PurePosixPath(item.name).parts)


def _in_folder(root: Path, folder: Path, files: Iterable[str], ignored: list[Ignored]) -> Iterator[Found]:
    for file in sorted(files):
        name = (folder / file).relative_to(root).as_posix()
        reason = _refusal(name)
        if reason is None:
            yield Found(root, name, folder / file)
        else:
            ignored.append(Ignored(public_name(name), reason))


def _from_glob(pattern: Path, ignored: list[Ignored]) -> list[Found]:
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    root = _absolute(fixed)
    matches = sorted(glob.glob(str(pattern), recursive=True))
    if not matches:
        raise UsageError(f"no file matches {pattern}")
    found: list[Found] = []
    for match in matches:
        name = Path(match).relative_to(fixed).as_posix()
        if Path(match).is_dir():
            if "**" not in pattern.parts:
                ignored.append(Ignored(public_name(name), "a folder: name it itself, or use **"))
            continue
        reason = _refusal(name)
        if reason is None:
            found.append(Found(root, name, root / name))
        else:
            ignored.append(Ignored(public_name(name), reason))
    return found


def _from_list(path: Path) -> list[Found]:
    """A text file with a path a line, relative to the list's own folder, else to the current one; # comments."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would cut names at odd characters
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of files", why=f"not UTF-8 text: {error}") from None
    found: list[Found] = []
    for line in (text.strip() for text in lines):
        if not line or line.startswith("#"):
            continue
        entry = expanded(line)
        candidates = [path.parent / entry, Path.cwd() / entry]
        location = _absolute(next((place for place in candidates if place.exists()), candidates[0]))
        missing = None if location.is_file() else f"listed in {path.name}, but there is no such file"
        found.append(Found(location.parent, location.name, location, error=missing))
    return found


def _from_archive(path: Path, folder: Path, ignored: list[Ignored]) -> list[Found]:
    """Unpack once; a marker beside the files remembers what came out, for the same command typed again."""
    marker = folder / _DONE
    state = path.stat()
    stamp = [str(path), state.st_size, state.st_mtime_ns]
    record = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {}
    if record.get("archive") != stamp:
        folder.mkdir(parents=True, exist_ok=True)
        taken, left = unpack(path, folder, _refusal)
        record = {
            "archive": stamp,
            "taken": [[member.name, member.error] for member in taken],
            "left": [[member.name, member.error] for member in left],
        }
        write_json(marker, record)
    ignored += [Ignored(public_name(name), reason) for name, reason in record["left"]]
    # Times of unpacked files would differ each time; the archive's own stands for them.
    for name, error in record["taken"]:
        if error is None:
            os.utime(folder / name, ns=(state.st_mtime_ns, state.st_mtime_ns))
    taken_names = sorted(record["taken"], key=lambda item: PurePosixPath(item[0]).parts)
    return [Found(path, name, folder / name, error=error) for name, error in taken_names]


def _from_json(path: Path, image_root: Path | None, notes: list[str]) -> list[Found]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise UsageError(f"{path} is not JSON", why=str(error)) from None
    if isinstance(content, dict) and "images" in content:
        return _from_coco(path, content["images"], image_root)
    return _from_samples(path, read_json(path, content), notes)


def _from_samples(source: Path, read: Samples, notes: list[str]) -> list[Found]:
    notes += read.notes
    found: list[Found] = []
    for sample in read.samples:
        location = _absolute(sample.image)
        missing = None if location.is_file() else f"listed in {source.name}, but there is no such file"
        truth = str(_absolute(sample.mask)) if isinstance(sample.mask, Path) else sample.mask
        found.append(Found(location.parent, location.name, location, error=missing, truth=truth))
    return found


def _from_coco(path: Path, images: Any, image_root: Path | None) -> list[Found]:
    try:
        entries = [(str(image["file_name"]), int(image["id"])) for image in images]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a COCO annotation file", why=f"{type(error).__name__}: {error}") from None
    if not entries:
        raise UsageError(f"{path} lists no images")
    root = _absolute(image_root) if image_root else _guess_image_root(path, [name for name, _ in entries[:20]])
    found: list[Found] = []
    for name, image_id in entries:
        location = Path(os.path.normpath(root / name))
        if not location.is_relative_to(root):
            raise UsageError(f"{path}: the file name {name!r} leaves the image folder {root}")
        missing = None if location.is_file() else f"listed in {path.name}, but not in {root}"
        found.append(Found(root, location.relative_to(root).as_posix(), location, image_id, missing))
    return found


def _guess_image_root(path: Path, names: Sequence[str]) -> Path:
    """The folder near a COCO file that has its images: beside it, in images/, or under the dataset's root."""
    stem = path.stem.removeprefix("instances_").removeprefix("annotations_")
    parent = path.parent
    places = [
        parent,
        parent / "images",
        parent / stem,
        parent.parent / stem,
        parent.parent / "images",
        parent.parent / "images" / stem,
        parent.parent,
    ]
    for place in places:
        if any((place / name).is_file() for name in names):
            return place.absolute()
    raise UsageError(
        f"the images of {path} were not found",
        why=f"{names[0]} is in none of {', '.join(str(place) for place in places)}",
        hint=f"orch run --images {path} --image-root FOLDER",
    )


def public_name(name: str) -> str:
    """The name as valid text: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")
