"""Where the true masks of manipulated images are: a folder of masks, or a data set in one of IMDL-BenCo's layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

NEGATIVE = "negative"  # IMDL-BenCo's word for an image that was not manipulated
SUFFIXES = ("", "_gt", "_mask", "-mask", "_edgemask")
PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".gif", ".webp")
DEEPEST = 5  # data sets of data sets


@dataclass(frozen=True)
class TrueMask:
    """An image and its mask; None: the image was not manipulated."""

    image: str
    mask: Path | None


def read_truth(source: Path, images: Sequence[str]) -> list[TrueMask]:
    """The masks that `source` has, in its order.

    A folder with Tp/ and Gt/ is a ManiDataset, a .json a JsonDataset (`[[image, mask or "Negative"], …]`) or a list of
    such data sets; any other folder holds masks under the relative paths of `images`. Masks are paired by name, never
    by sort order, and paths in a JSON file are relative to it, else to the working folder. Raises UsageError.
    """
    if source.is_dir():
        found = list(
            _mani(source) if (source / "Tp").is_dir() and (source / "Gt").is_dir() else _folder(source, images)
        )
    elif source.suffix.lower() == ".json":
        found = list(_document(source, 0))
    else:
        raise UsageError(f"there are no masks at {source}", why="it is neither a folder nor a .json data set")
    if not found:
        raise UsageError(f"no mask of {source} belongs to an image", hint="name masks as their images are named")
    return found


def _folder(folder: Path, images: Sequence[str]) -> Iterator[TrueMask]:
    """Masks beside nothing: x/a.jpg has x/a.png, x/a_gt.png or x/a.jpg.png."""
    for image in images:
        mask = _named_like(folder / image)
        if mask is not None:
            yield TrueMask(image, mask)


def _mani(folder: Path) -> Iterator[TrueMask]:
    unpaired = []
    for image in sorted((folder / "Tp").iterdir()):
        if image.suffix.lower() not in PICTURES:
            continue
        mask = _named_like(folder / "Gt" / image.name)
        if mask is None:
            unpaired.append(image.name)
        else:
            yield TrueMask(f"Tp/{image.name}", mask)
    if unpaired:
        more = f" and {len(unpaired) - 5} more" if len(unpaired) > 5 else ""
        raise UsageError(
            f"images in {folder / 'Tp'} have no mask in Gt: {', '.join(unpaired[:5])}{more}",
            why=f"a mask has its image's name, with {', '.join(filter(None, SUFFIXES))} or nothing before the ending",
        )


def _named_like(place: Path) -> Path | None:
    """The mask of the image that would lie at `place`."""
    names = [f"{place.stem}{suffix}{ending}" for suffix in SUFFIXES for ending in PICTURES]
    names += [f"{place.name}{ending}" for ending in PICTURES]
    return next((place.with_name(name) for name in names if place.with_name(name).is_file()), None)


def _document(source: Path, depth: int) -> Iterator[TrueMask]:
    if depth > DEEPEST:
        raise UsageError(f"{source} names itself, or data sets too deep")
    try:
        entries = json.loads(source.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {source}", why=error.strerror or str(error)) from error
    except ValueError as error:
        raise UsageError(f"{source} is not JSON", why=str(error)) from error
    if not isinstance(entries, list):
        raise UsageError(f"{source} is no data set of IMDL-BenCo", why="it is no list of pairs")
    for number, entry in enumerate(entries):
        if not _is_pair(entry):
            raise UsageError(f"{source} is no data set of IMDL-BenCo", why=f"entry {number} is not two texts")
        kind, path = entry
        if kind == "JsonDataset":
            yield from _document(_found(source, path), depth + 1)
        elif kind == "ManiDataset":
            yield from _mani(_found(source, path))
        else:
            yield TrueMask(kind, None if path.lower() == NEGATIVE else _found(source, path))


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry)


def _found(source: Path, path: str) -> Path:
    places = (source.parent / path, Path(path))
    there = next((place for place in places if place.exists()), None)
    if there is None:
        raise UsageError(f"{source} names {path}, which is not there", why=f"neither below {source.parent} nor here")
    return there
