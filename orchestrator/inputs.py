"""What a user names as images (folders, files, globs, lists, archives, COCO files) as one ordered, accounted list."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orchestrator.archives import is_archive, unpack
from orchestrator.errors import UsageError
from orchestrator.files import write_json

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST_ROOTS = 32
_DONE = "unpacked.json"


@dataclass(frozen=True, slots=True)
class InputImage:
    """One image to predict.

    `file` is its public name, relative and /-separated; `path` says where it is, as "ROOT/relative path" with ROOT an
    index into InputSet.roots. Where it is known already that it cannot be read, `error` says why and `path` is empty.
    """

    index: int
    file: str
    path: str
    image_id: int
    size: int
    mtime_ns: int
    error: str | None = None


@dataclass(frozen=True)
class Ignored:
    """A file that was met and left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class InputSet:
    """The images of a run in their order, the folders they lie in, and what was left out."""

    images: tuple[InputImage, ...]
    roots: tuple[Path, ...]
    ignored: tuple[Ignored, ...]

    def digest(self) -> str:
        """Digest of the images' names and sizes."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.file}\0{image.size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def locate(self, image: InputImage) -> Path:
        """Where an image is on the host."""
        root, _, rest = image.path.partition("/")
        return self.roots[int(root)] / rest


@dataclass(frozen=True)
class _Found:
    """An image as its source gave it: a root, the name below it, and where the bytes are."""

    root: Path
    name: str
    location: Path
    image_id: int | None = None
    error: str | None = None
    size: int = 0
    mtime_ns: int = 0


def collect_inputs(sources: Sequence[str], unpack_to: Path, image_root: Path | None = None) -> InputSet:
    """List the images of all sources. Archives are taken out into `unpack_to`, once.

    Raises UsageError for a source that is not there, or when there is no image at all.
    """
    found: list[_Found] = []
    ignored: list[Ignored] = []
    for number, source in enumerate(sources):
        try:
            found += _from_source(source, unpack_to / str(number), image_root, ignored)
        except OSError as error:
            raise UsageError(f"cannot read {source}", why=error.strerror or str(error)) from error
    images = _by_public_name(found, ignored)
    if not images:
        met = f"{len(ignored)} other files were met: {_examples(ignored)}" if ignored else "nothing was found there"
        raise UsageError(f"no images in {' '.join(sources)}", why=f"{met}; images end in {' '.join(EXTENSIONS)}")
    examined = {file: _examined(item) for file, item in images.items()}
    roots = _mount_roots([item for item in examined.values() if item.error is None])
    ids = _image_ids(examined)
    listed = tuple(_image(index, file, item, ids[index], roots) for index, (file, item) in enumerate(examined.items()))
    return InputSet(listed, roots, tuple(ignored))


def read_inputs(path: Path) -> Iterator[InputImage]:
    """The images of a run's inputs.jsonl."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield InputImage(**json.loads(line))


def _from_source(source: str, unpack_to: Path, image_root: Path | None, ignored: list[Ignored]) -> list[_Found]:
    path = expanded(source)
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
        return _from_coco(path, image_root)
    return [_Found(path.parent, path.name, path)]


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


def _from_folder(root: Path, ignored: list[Ignored]) -> list[_Found]:
    found: list[_Found] = []
    visited: set[str] = set()

    def report(error: OSError) -> None:
        name = _public_name(os.path.relpath(error.filename, root))
        ignored.append(Ignored(name, f"cannot be read: {error.strerror}"))

    pending = [str(root)]
    while pending:  # links wait until all real folders were seen, so that images keep their real names
        start = pending.pop(0)
        if os.path.realpath(start) in visited:
            ignored.append(Ignored(_public_name(os.path.relpath(start, root)), "a link to a folder that is listed"))
            continue
        for folder, folders, files in os.walk(start, onerror=report):
            visited.add(os.path.realpath(folder))
            pending += sorted(str(path) for path in map(Path(folder).joinpath, folders) if path.is_symlink())
            found += _in_folder(root, Path(folder), files, ignored)
    return sorted(found, key=lambda item: PurePosixPath(item.name).parts)


def _in_folder(root: Path, folder: Path, files: Iterable[str], ignored: list[Ignored]) -> Iterator[_Found]:
    for file in sorted(files):
        name = (folder / file).relative_to(root).as_posix()
        reason = _refusal(name)
        if reason is None:
            yield _Found(root, name, folder / file)
        else:
            ignored.append(Ignored(_public_name(name), reason))


def _from_glob(pattern: Path, ignored: list[Ignored]) -> list[_Found]:
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    root = _absolute(fixed)
    matches = sorted(glob.glob(str(pattern), recursive=True))
    if not matches:
        raise UsageError(f"no file matches {pattern}")
    found: list[_Found] = []
    for match in matches:
        name = Path(match).relative_to(fixed).as_posix()
        if Path(match).is_dir():
            if "**" not in pattern.parts:
                ignored.append(Ignored(_public_name(name), "a folder: name it itself, or use **"))
            continue
        reason = _refusal(name)
        if reason is None:
            found.append(_Found(root, name, root / name))
        else:
            ignored.append(Ignored(_public_name(name), reason))
    return found


def _from_list(path: Path) -> list[_Found]:
    """A text file with a path a line, relative to the list's own folder, else to the current one; # comments."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would cut names at odd characters
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of files", why=f"not UTF-8 text: {error}") from None
    found: list[_Found] = []
    for line in (text.strip() for text in lines):
        if not line or line.startswith("#"):
            continue
        entry = expanded(line)
        candidates = [path.parent / entry, Path.cwd() / entry]
        location = _absolute(next((place for place in candidates if place.exists()), candidates[0]))
        missing = None if location.is_file() else f"listed in {path.name}, but there is no such file"
        found.append(_Found(location.parent, location.name, location, error=missing))
    return found


def _from_archive(path: Path, folder: Path, ignored: list[Ignored]) -> list[_Found]:
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
    ignored += [Ignored(_public_name(name), reason) for name, reason in record["left"]]
    # Times of unpacked files would differ each time; the archive's own stands for them.
    for name, error in record["taken"]:
        if error is None:
            os.utime(folder / name, ns=(state.st_mtime_ns, state.st_mtime_ns))
    taken_names = sorted(record["taken"], key=lambda item: PurePosixPath(item[0]).parts)
    return [_Found(path, name, folder / name, error=error) for name, error in taken_names]


def _from_coco(path: Path, image_root: Path | None) -> list[_Found]:
    try:
        images = json.loads(path.read_text(encoding="utf-8-sig"))["images"]
        entries = [(str(image["file_name"]), int(image["id"])) for image in images]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a COCO annotation file", why=f"{type(error).__name__}: {error}") from None
    if not entries:
        raise UsageError(f"{path} lists no images")
    root = _absolute(image_root) if image_root else _guess_image_root(path, [name for name, _ in entries[:20]])
    found: list[_Found] = []
    for name, image_id in entries:
        location = Path(os.path.normpath(root / name))
        if not location.is_relative_to(root):
            raise UsageError(f"{path}: the file name {name!r} leaves the image folder {root}")
        missing = None if location.is_file() else f"listed in {path.name}, but not in {root}"
        found.append(_Found(root, location.relative_to(root).as_posix(), location, image_id, missing))
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


def _by_public_name(found: Sequence[_Found], ignored: list[Ignored]) -> dict[str, _Found]:
    """The images by their names relative to what all sources have in common, each once."""
    images: dict[str, _Found] = {}
    base = os.path.commonpath({item.root for item in found}) if found else ""
    for item in found:
        name = PurePosixPath(_public_name(os.path.relpath(item.root / item.name, base)))
        file, copy = str(name), 2
        while file in images and images[file].root / images[file].name != item.root / item.name:
            # Another file whose name, with odd bytes written as escapes, reads the same.
            file, copy = str(name.with_stem(f"{name.stem}~{copy}")), copy + 1
        if file in images:
            ignored.append(Ignored(file, "named twice"))
        else:
            images[file] = item
    return images


def _examined(item: _Found) -> _Found:
    """With size and time, or the reason why it cannot be read."""
    if item.error is not None:
        return item
    try:
        state = item.location.stat()
    except OSError as error:
        return replace(item, error=error.strerror or str(error))
    if not stat.S_ISREG(state.st_mode):
        return replace(item, error="not a regular file")
    return replace(item, size=state.st_size, mtime_ns=state.st_mtime_ns)


def _image_ids(images: Mapping[str, _Found]) -> list[int]:
    """COCO's own ids; the images of other sources get the numbers that are free, from their position up."""
    given: dict[int, str] = {}
    for file, item in images.items():
        if item.image_id is not None and item.image_id in given:
            raise UsageError(
                f"two images have the id {item.image_id}: {given[item.image_id]} and {file}",
                hint="give COCO files that number their images alike in runs of their own",
            )
        if item.image_id is not None:
            given[item.image_id] = file
    ids: list[int] = []
    free = 0
    for position, item in enumerate(images.values(), 1):
        free = max(free + 1, position)
        while item.image_id is None and free in given:
            free += 1
        ids.append(free if item.image_id is None else item.image_id)
    return ids


def _public_name(name: str) -> str:
    """The name as valid text: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def _mount_roots(found: Sequence[_Found]) -> tuple[Path, ...]:
    """The fewest folders that hold all readable files, where links point outside as well as where they stand."""
    folders: set[Path] = set()
    for item in found:
        location = Path(os.path.realpath(item.location))
        inside = Path(os.path.realpath(item.root)) if item.root.is_dir() else location.parent
        folders.add(inside if location.is_relative_to(inside) else location.parent)
    outermost = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    if len(outermost) > MOST_ROOTS:
        common = Path(os.path.commonpath(outermost))
        if common == common.parent:
            raise UsageError(
                f"the images lie in {len(outermost)} folders with nothing in common",
                hint="link or copy them into one folder, or run them in parts",
            )
        outermost = [common]
    return tuple(sorted(outermost))


def _image(index: int, file: str, item: _Found, image_id: int, roots: Sequence[Path]) -> InputImage:
    path = ""
    if item.error is None:
        location = Path(os.path.realpath(item.location))
        number = next(number for number, root in enumerate(roots) if location.is_relative_to(root))
        path = f"{number}/{location.relative_to(roots[number]).as_posix()}"
    return InputImage(index, file, path, image_id, item.size, item.mtime_ns, item.error)


def _examples(ignored: Sequence[Ignored]) -> str:
    names = [item.file for item in ignored[:3]]
    return ", ".join(names) + (", …" if len(ignored) > 3 else "")
