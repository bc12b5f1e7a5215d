"""What a user names as images (folders, files, globs, lists, archives, data sets) as one ordered, accounted list."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from orchestrator.errors import UsageError
from orchestrator.input_sources import EXTENSIONS, Found, Ignored, from_source, public_name

MOST_ROOTS = 32


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
    truth: str | None = None
    """Where its mask is, or "Negative", if the images are a data set of manipulation localization."""


@dataclass(frozen=True)
class InputSet:
    """The images of a run in their order, the folders they lie in, and what was left out."""

    images: tuple[InputImage, ...]
    roots: tuple[Path, ...]
    ignored: tuple[Ignored, ...]
    notes: tuple[str, ...] = ()
    """What a user should know about how the sources were read."""

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


def collect_inputs(sources: Sequence[str], unpack_to: Path, image_root: Path | None = None) -> InputSet:
    """List the images of all sources. Archives are taken out into `unpack_to`, once.

    Raises UsageError for a source that is not there, or when there is no image at all.
    """
    found: list[Found] = []
    ignored: list[Ignored] = []
    notes: list[str] = []
    for number, source in enumerate(sources):
        try:
            found += from_source(source, unpack_to / str(number), image_root, ignored, notes)
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
    return InputSet(listed, roots, tuple(ignored), tuple(notes))


def read_inputs(path: Path) -> Iterator[InputImage]:
    """The images of a run's inputs.jsonl."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield InputImage(**json.loads(line))


def _by_public_name(found: Sequence[Found], ignored: list[Ignored]) -> dict[str, Found]:
    """The images by their names relative to what all sources have in common, each once."""
    images: dict[str, Found] = {}
    base = os.path.commonpath({item.root for item in found}) if found else ""
    for item in found:
        name = PurePosixPath(public_name(os.path.relpath(item.root / item.name, base)))
        file, copy = str(name), 2
        while file in images and images[file].root / images[file].name != item.root / item.name:
            # Another file whose name, with odd bytes written as escapes, reads the same.
            file, copy = str(name.with_stem(f"{name.stem}~{copy}")), copy + 1
        if file in images:
            ignored.append(Ignored(file, "named twice"))
        else:
            images[file] = item
    return images


def _examined(item: Found) -> Found:
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


def _image_ids(images: Mapping[str, Found]) -> list[int]:
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


def _mount_roots(found: Sequence[Found]) -> tuple[Path, ...]:
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


def _image(index: int, file: str, item: Found, image_id: int, roots: Sequence[Path]) -> InputImage:
    path = ""
    if item.error is None:
        location = Path(os.path.realpath(item.location))
        number = next(number for number, root in enumerate(roots) if location.is_relative_to(root))
        path = f"{number}/{location.relative_to(roots[number]).as_posix()}"
    return InputImage(index, file, path, image_id, item.size, item.mtime_ns, item.error, item.truth)


def _examples(ignored: Sequence[Ignored]) -> str:
    names = [item.file for item in ignored[:3]]
    return ", ".join(names) + (", …" if len(ignored) > 3 else "")
