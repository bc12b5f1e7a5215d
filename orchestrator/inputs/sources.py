"""Read each kind of source that names images: yield its images, note what was skipped."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import json
import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.inputs.benco_datasets import IMAGES, MASKS, Samples, is_tp_gt, read_json, read_tp_gt
from orchestrator.inputs.folders import SkippedFile, SourceImage, from_folder, public_name, refusal
from orchestrator.inputs.image_ids import is_image_id
from orchestrator.inputs.image_names import name_image
from orchestrator.inputs.links import Links
from orchestrator.inputs.remote import expand_user, is_url
from orchestrator.inputs.signatures import read_head
from orchestrator.system import is_archive, parse_object, unpack, write_json

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
_DONE = "unpacked.json"
_UNPACKED = "orch-unpacked/1"


def make_links(sources: Sequence[str], image_root: Path | None, follow: bool, stage_in: Path) -> Links:
    """Return the rules for links in these sources: which folders the user named, and which are listed whole."""
    named = [image_root] if image_root is not None else []
    walked = []
    for source in sources:
        if is_url(source):
            continue
        path = expand_user(source)
        if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises for names that are too long
            named.append(path)
            walked += [] if is_tp_gt(path) else [path]
        elif glob.has_magic(source) and not os.path.lexists(path):
            named.append(_fixed_part(path))
    real_named, real_walked = (tuple(os.path.realpath(path) for path in paths) for paths in (named, walked))
    return Links(real_named, real_walked, follow, stage_in)


def from_source(
    source: str,
    unpack_to: Path,
    image_root: Path | None,
    links: Links,
    skipped: list[SkippedFile],
    notes: list[str],
) -> Iterator[SourceImage]:
    """Yield the images of one source in order; append skipped files to `skipped`, remarks for the user to `notes`.

    Raises UsageError for a missing source or one in an unknown format, OSError for one that cannot be read.
    """
    if not source:
        raise UsageError("the name of images is empty", why="it would be the working directory", hint="write . for it")
    path = expand_user(source)
    if path.is_dir() and is_tp_gt(path):
        notes.append(f"{path} is a data set: its images are those in {IMAGES}, their masks those in {MASKS}")
        return _from_samples(path / IMAGES, read_tp_gt(_absolute(path)), notes)
    if path.is_dir():
        return from_folder(str(_absolute(path)), links, skipped)
    if not path.exists() and not path.is_symlink():
        if glob.has_magic(source):
            return _from_glob(path, links, skipped)
        raise UsageError(f"the file or folder {source} does not exist")
    path = _absolute(path)
    if is_archive(path):
        return _from_archive(path, unpack_to, skipped)
    if path.suffix.lower() == ".txt":
        return _from_list(path)
    if path.suffix.lower() == ".json":
        return _from_json(path, image_root, notes)
    if path.suffix.lower() in VIDEOS:
        raise UsageError(
            f"{path} is a video, and images are predicted",
            why="take frames out of it first, two a second for instance",
            hint=f"mkdir frames && ffmpeg -i {path} -vf fps=2 frames/%06d.png",
        )
    return iter([_single_file(path, is_named=True)])


def _absolute(path: Path) -> Path:
    """Return the absolute path without `..`, which would lead public names out of their folder."""
    return path.resolve() if ".." in path.parts else path.absolute()


def _single_file(
    path: Path,
    missing: str | None = None,
    truth: str | None = None,
    is_named: bool = False,
    data_set: str | None = None,
) -> SourceImage:
    """Return a file whose root is its folder."""
    folder = str(path.parent)
    return SourceImage(folder, path.name, folder, None, None, truth, missing, None, is_named, data_set)


def _fixed_part(pattern: Path) -> Path:
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))


def _from_glob(pattern: Path, links: Links, skipped: list[SkippedFile]) -> Iterator[SourceImage]:
    fixed = _fixed_part(pattern)
    root = str(_absolute(fixed))
    if "**" in pattern.parts:
        matches = _match_below(root, pattern.relative_to(fixed).parts, links, skipped)
    else:
        matches = [Path(match).relative_to(fixed).as_posix() for match in sorted(glob.glob(str(pattern)))]
    if not matches:
        raise UsageError(f"no file matches {pattern}")
    for name in matches:
        if Path(root, name).is_dir():
            skipped.append(SkippedFile(public_name(name), "a folder: give it as a source, or use **"))
            continue
        reason = refusal(name, partial(read_head, os.path.join(root, name)))
        if reason is None:
            yield SourceImage(root, name, root)
        else:
            skipped.append(SkippedFile(public_name(name), reason))


def _match_below(root: str, pattern: Sequence[str], links: Links, skipped: list[SkippedFile]) -> list[str]:
    """Return the images below `root` that match a pattern with **, sorted by name; append skipped files.

    glob.glob would follow links to folders, over and over where they lead back.
    """
    others: list[SkippedFile] = []
    names = sorted(image.name for image in from_folder(root, links, others))
    for item in others:
        if item.reason.startswith(("a link", "cannot be read")) or _matches(item.file.split("/"), pattern):
            skipped.append(item)
    return [name for name in names if _matches(name.split("/"), pattern)]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a name match those of a pattern, as glob.glob understands them."""
    if not pattern:
        return not parts
    if pattern[0] != "**":
        if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
            return False
        return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
    if len(pattern) == 1:
        return not any(part.startswith(".") for part in parts)
    return _matches(parts, pattern[1:]) or (
        bool(parts) and not parts[0].startswith(".") and _matches(parts[1:], pattern)
    )


def _from_list(path: Path) -> Iterator[SourceImage]:
    """Yield the files of a list: a path per line, relative to the list's folder, else the current one; # comments."""
    beside, here = str(path.parent), str(Path.cwd())
    missing = f"listed in {path.name}, but there is no such file"
    try:
        with path.open(encoding="utf-8-sig") as lines:  # str.splitlines() would cut names at odd characters
            for text in map(str.strip, lines):
                if not text or text[0] == "#":
                    continue
                if text[0] in "~." or text[-1] == "/" or "//" in text or "/." in text:
                    text = str(expand_user(text))
                if text[0] == "/":
                    location, state = text, None
                else:
                    location, state = _beside_or_here(os.path.join(beside, text), os.path.join(here, text))
                if ".." in location:
                    location = str(_absolute(Path(location)))
                folder, _, name = location.rpartition("/")
                yield SourceImage(folder or "/", name, folder or "/", None, None, None, missing, state, True)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of files", why=f"not UTF-8 text: {error}") from None


def _beside_or_here(first: str, second: str) -> tuple[str, os.stat_result | None]:
    """Return the first path that exists, else the first one, and its os.lstat where known."""
    for path in (first, second):
        try:
            state = os.lstat(path)
            if not stat.S_ISLNK(state.st_mode) or Path(path).exists():
                return path, state
        except (OSError, ValueError):
            continue
    return first, None


def _from_archive(path: Path, folder: Path, skipped: list[SkippedFile]) -> Iterator[SourceImage]:
    """Unpack an archive once; a marker file records the result for the next run of the same command."""
    marker = folder / _DONE
    state = path.stat()
    stamp = [str(path), state.st_size, state.st_mtime_ns]
    record = (parse_object(marker.read_bytes()) if marker.is_file() else None) or {}
    if (record.get("format"), record.get("archive")) != (_UNPACKED, stamp):
        folder.mkdir(parents=True, exist_ok=True)
        unpacked, left = unpack(path, folder, refusal)
        record = {
            "format": _UNPACKED,
            "archive": stamp,
            "taken": [[member.name, member.error] for member in unpacked],
            "left": [[member.name, member.error] for member in left],
        }
        write_json(marker, record)
    skipped += [SkippedFile(public_name(name), reason) for name, reason in record["left"]]
    # Unpacked files would have new times on each run; they get the archive's time.
    for name, error in record["taken"]:
        if error is None:
            os.utime(folder / name, ns=(state.st_mtime_ns, state.st_mtime_ns))
    taken_names = sorted(record["taken"], key=lambda item: PurePosixPath(item[0]).parts)
    for name, error in taken_names:
        yield SourceImage(str(path), name, str(folder), None, error)


def _from_json(path: Path, image_root: Path | None, notes: list[str]) -> Iterator[SourceImage]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UsageError(f"{path} is not JSON", why=str(error)) from None
    if isinstance(content, dict) and "images" in content:
        return _from_coco(path, content["images"], image_root)
    try:
        samples = read_json(path, content)
    except RecursionError as error:
        raise UsageError(f"the data set {path} contains itself") from error
    return _from_samples(path, samples, notes)


def _from_samples(source: Path, read: Samples, notes: list[str]) -> Iterator[SourceImage]:
    notes += read.notes
    for sample in read.samples:
        location = _absolute(sample.image)
        missing = f"listed in {source.name}, but there is no such file"
        truth = str(_absolute(sample.mask)) if isinstance(sample.mask, Path) else sample.mask
        yield _single_file(location, missing, truth, data_set=sample.data_set)


def _from_coco(path: Path, images: Any, image_root: Path | None) -> Iterator[SourceImage]:
    try:
        entries = [(str(name_image(image)), image["id"]) for image in images]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a COCO annotation file", why=f"{type(error).__name__}: {error}") from None
    for index, (_, image_id) in enumerate(entries):
        if not is_image_id(image_id):
            why = f"images[{index}] has the id {json.dumps(image_id)}, which is neither a number nor a text"
            raise UsageError(f"{path} is not a COCO annotation file", why=why)
    if not entries:
        raise UsageError(f"{path} lists no images")
    root = str(_absolute(image_root) if image_root else _guess_image_root(path, [name for name, _ in entries[:20]]))
    below = root.rstrip("/") + "/"
    for name, image_id in entries:
        location = os.path.normpath(os.path.join(root, name))
        if location != root and not location.startswith(below):
            raise UsageError(f"{path}: the file name {name!r} leads out of the image folder {root}")
        missing = f"listed in {path.name}, but not in {root}"
        yield SourceImage(root, location[len(below) :] or ".", root, image_id, None, None, missing)


def _guess_image_root(path: Path, names: Sequence[str]) -> Path:
    """Return the folder near a COCO file that contains its images: beside it, in images/, or at the dataset's root."""
    stem = path.stem.removeprefix("instances_").removeprefix("annotations_")
    parent = path.parent
    candidates = [
        parent,
        parent / "images",
        parent / stem,
        parent.parent / stem,
        parent.parent / "images",
        parent.parent / "images" / stem,
        parent.parent,
    ]
    for folder in candidates:
        if any((folder / name).is_file() for name in names):
            return folder.absolute()
    raise UsageError(
        f"cannot find the images of {path}",
        why=f"{names[0]} is in none of {', '.join(map(str, candidates))}",
        hint=f"orch run --images {path} --image-root FOLDER",
    )
