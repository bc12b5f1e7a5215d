"""The kinds of sources a user may name images by, each read into a list of what was found and what was left out."""

from __future__ import annotations

import glob
import itertools
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.inputs.benco_datasets import IMAGES, MASKS, Samples, is_tp_gt, read_json, read_tp_gt
from orchestrator.inputs.folders import SkippedFile, SourceImage, from_folder, public_name, refusal
from orchestrator.system.archives import is_archive, unpack
from orchestrator.system.files import write_json

_DONE = "unpacked.json"


def from_source(
    source: str, unpack_to: Path, image_root: Path | None, skipped: list[SkippedFile], notes: list[str]
) -> Iterator[SourceImage]:
    """The images of one source in order; adds to `skipped` what it left out and to `notes` what a user should know.

    Raises UsageError where there is no such source or it cannot be understood, OSError where it cannot be read.
    """
    path = expanded(source)
    if path.is_dir() and is_tp_gt(path):
        notes.append(f"{path} is a data set: its images are those in {IMAGES}, their masks those in {MASKS}")
        return _from_samples(path / IMAGES, read_tp_gt(_absolute(path)), notes)
    if path.is_dir():
        return from_folder(str(_absolute(path)), skipped)
    if not path.exists() and not path.is_symlink():
        if glob.has_magic(source):
            return _from_glob(path, skipped)
        raise UsageError(f"there is no file or folder {source}")
    path = _absolute(path)
    if is_archive(path):
        return _from_archive(path, unpack_to, skipped)
    if path.suffix.lower() == ".txt":
        return _from_list(path)
    if path.suffix.lower() == ".json":
        return _from_json(path, image_root, notes)
    return iter([_named(path)])


def expanded(name: str) -> Path:
    """The path with ~ replaced by the home folder it stands for, if it stands for one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ begins the name of no user, but perhaps that of a file
        return Path(name)


def _absolute(path: Path) -> Path:
    """The absolute path without `..`, which would lead public names out of their folder."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _named(path: Path, missing: str | None = None, truth: str | None = None) -> SourceImage:
    """A file that was named itself: its root is its folder."""
    folder = str(path.parent)
    return SourceImage(folder, path.name, folder, None, None, truth, missing)


def _from_glob(pattern: Path, skipped: list[SkippedFile]) -> Iterator[SourceImage]:
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    root = str(_absolute(fixed))
    matches = sorted(glob.glob(str(pattern), recursive=True))
    if not matches:
        raise UsageError(f"no file matches {pattern}")
    for match in matches:
        name = Path(match).relative_to(fixed).as_posix()
        if Path(match).is_dir():
            if "**" not in pattern.parts:
                skipped.append(SkippedFile(public_name(name), "a folder: name it itself, or use **"))
            continue
        reason = refusal(name)
        if reason is None:
            yield SourceImage(root, name, root)
        else:
            skipped.append(SkippedFile(public_name(name), reason))


def _from_list(path: Path) -> Iterator[SourceImage]:
    """A text file with a path a line, relative to the list's own folder, else to the current one; # comments."""
    beside, here = str(path.parent), str(Path.cwd())
    missing = f"listed in {path.name}, but there is no such file"
    try:
        with path.open(encoding="utf-8-sig") as lines:  # str.splitlines() would cut names at odd characters
            for text in map(str.strip, lines):
                if not text or text[0] == "#":
                    continue
                if text[0] in "~." or text[-1] == "/" or "//" in text or "/." in text:
                    text = str(expanded(text))
                if text[0] == "/":
                    location, state = text, None
                else:
                    location, state = _beside_or_here(os.path.join(beside, text), os.path.join(here, text))
                if ".." in location:
                    location = str(_absolute(Path(location)))
                folder, _, name = location.rpartition("/")
                yield SourceImage(folder or "/", name, folder or "/", None, None, None, missing, state)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of files", why=f"not UTF-8 text: {error}") from None


def _beside_or_here(first: str, second: str) -> tuple[str, os.stat_result | None]:
    """The one of two places where something is, the first if it is neither, and what is known of it."""
    for place in (first, second):
        try:
            state = os.lstat(place)
            if not stat.S_ISLNK(state.st_mode) or Path(place).exists():
                return place, state
        except (OSError, ValueError):
            continue
    return first, None


def _from_archive(path: Path, folder: Path, skipped: list[SkippedFile]) -> Iterator[SourceImage]:
    """Unpack once; a marker beside the files remembers what came out, for the same command typed again."""
    marker = folder / _DONE
    state = path.stat()
    stamp = [str(path), state.st_size, state.st_mtime_ns]
    record = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {}
    if record.get("archive") != stamp:
        folder.mkdir(parents=True, exist_ok=True)
        taken, left = unpack(path, folder, refusal)
        record = {
            "archive": stamp,
            "taken": [[member.name, member.error] for member in taken],
            "left": [[member.name, member.error] for member in left],
        }
        write_json(marker, record)
    skipped += [SkippedFile(public_name(name), reason) for name, reason in record["left"]]
    # Times of unpacked files would differ each time; the archive's own stands for them.
    for name, error in record["taken"]:
        if error is None:
            os.utime(folder / name, ns=(state.st_mtime_ns, state.st_mtime_ns))
    taken_names = sorted(record["taken"], key=lambda item: PurePosixPath(item[0]).parts)
    for name, error in taken_names:
        yield SourceImage(str(path), name, str(folder), None, error)


def _from_json(path: Path, image_root: Path | None, notes: list[str]) -> Iterator[SourceImage]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise UsageError(f"{path} is not JSON", why=str(error)) from None
    if isinstance(content, dict) and "images" in content:
        return _from_coco(path, content["images"], image_root)
    return _from_samples(path, read_json(path, content), notes)


def _from_samples(source: Path, read: Samples, notes: list[str]) -> Iterator[SourceImage]:
    notes += read.notes
    for sample in read.samples:
        location = _absolute(sample.image)
        missing = f"listed in {source.name}, but there is no such file"
        truth = str(_absolute(sample.mask)) if isinstance(sample.mask, Path) else sample.mask
        yield _named(location, missing, truth)


def _from_coco(path: Path, images: Any, image_root: Path | None) -> Iterator[SourceImage]:
    try:
        entries = [(str(image["file_name"]), int(image["id"])) for image in images]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a COCO annotation file", why=f"{type(error).__name__}: {error}") from None
    if not entries:
        raise UsageError(f"{path} lists no images")
    root = str(_absolute(image_root) if image_root else _guess_image_root(path, [name for name, _ in entries[:20]]))
    below = root.rstrip("/") + "/"
    for name, image_id in entries:
        location = os.path.normpath(os.path.join(root, name))
        if location != root and not location.startswith(below):
            raise UsageError(f"{path}: the file name {name!r} leaves the image folder {root}")
        missing = f"listed in {path.name}, but not in {root}"
        yield SourceImage(root, location[len(below) :] or ".", root, image_id, None, None, missing)


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
