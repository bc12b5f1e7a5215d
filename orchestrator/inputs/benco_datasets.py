"""Read data sets of manipulation localization in IMDL-BenCo's layouts: images and their masks.

A folder with Tp/ and Gt/ ("ManiDataset"); a JSON list [[image, mask or "Negative"], …] ("JsonDataset"); a JSON list
[["ManiDataset" or "JsonDataset", path], …]; a JSON object {name: path} of such data sets. Upstream pairs Tp and Gt by
sorted order, where one stray file shifts all later pairs; here they are paired by stem.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

IMAGES, MASKS = "Tp", "Gt"
NEGATIVE = "Negative"
"""Stands for the mask of an image that was not manipulated."""
_KINDS = ("ManiDataset", "JsonDataset")
_MASK_SUFFIXES = ("", "_gt", "_mask")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """An image and its mask: a file, NEGATIVE, or None for no mask. The files may be missing.

    `data_set` is its name in an object {name: path}.
    """

    image: Path
    mask: Path | str | None
    data_set: str | None = None


@dataclass(frozen=True)
class Samples:
    """A data set, and notes for the user on how it was read."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


def is_tp_gt(folder: Path) -> bool:
    """Return whether a folder contains Tp/ and Gt/."""
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def read_tp_gt(folder: Path) -> Samples:
    """Return the images of Tp/ with the masks of Gt/ that have the same stem, or the stem with _gt or _mask."""
    images, masks = _list_pictures(folder / IMAGES), _list_pictures(folder / MASKS)
    by_stem = {mask.stem: mask for mask in masks}
    samples = [Sample(image, _find_mask(image.stem, by_stem)) for image in images]
    notes = []
    without = sum(sample.mask is None for sample in samples)
    if without:
        notes.append(f"{folder}: {without} of {len(samples)} images of {IMAGES} have no mask of their name in {MASKS}")
    in_order = dict(zip(images, masks, strict=False))
    otherwise = sum(sample.mask is not None and in_order.get(sample.image) != sample.mask for sample in samples)
    if otherwise:
        notes.append(f"{folder}: masks are paired by name; by sort order {otherwise} images would get another mask")
    return Samples(tuple(samples), tuple(notes))


def read_json(path: Path, content: Any) -> Samples:
    """Return the samples of a JSON file in one of the layouts. Raises UsageError for any other content."""
    if isinstance(content, Mapping) and content and all(isinstance(value, str) for value in content.values()):
        return _join(_name(read_data_set(_locate(path, value)), name) for name, value in content.items())
    if not isinstance(content, Sequence) or not content or not all(_is_pair(entry) for entry in content):
        raise UsageError(
            f"cannot read {path} as a list of images",
            why="expected a COCO file, [[image, mask], …], [[kind, path], …] or {name: path}",
        )
    if all(first in _KINDS and second is not None for first, second in content):
        return _join(read_data_set(_locate(path, second)) for _, second in content)
    samples = [
        Sample(_locate(path, image), mask if mask in (NEGATIVE, None) else _locate(path, mask))
        for image, mask in content
    ]
    return Samples(tuple(samples))


def read_data_set(path: Path) -> Samples:
    """Read a data set from its folder or its JSON file. Raises UsageError."""
    try:
        is_folder, is_file = is_tp_gt(path), path.is_file()
    except OSError as error:  # of a name that no file can have
        raise UsageError(f"cannot read {path}", why=error.strerror) from None
    if is_folder:
        return read_tp_gt(path)
    if not is_file:
        why = f"expected a folder with {IMAGES}/ and {MASKS}/, or a JSON file"
        raise UsageError(f"{path} is not a data set", why=why)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"cannot read {path}", why=str(error)) from None
    return read_json(path, content)


def _join(parts: Iterator[Samples]) -> Samples:
    read = list(parts)
    return Samples(
        tuple(sample for part in read for sample in part.samples), tuple(note for part in read for note in part.notes)
    )


def _name(read: Samples, name: str) -> Samples:
    return Samples(tuple(replace(sample, data_set=name) for sample in read.samples), read.notes)


def _is_pair(entry: Any) -> bool:
    return (
        isinstance(entry, Sequence)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], str | None)
    )


def _locate(path: Path, name: str) -> Path:
    """Return a path named in a file: beside that file, else below the current folder, as upstream does."""
    beside, here = path.parent / name, Path.cwd() / name
    return here if not os.path.lexists(beside) and os.path.lexists(here) else beside


def _list_pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.name[0] != ".")


def _find_mask(stem: str, masks: Mapping[str, Path]) -> Path | None:
    return next((masks[stem + suffix] for suffix in _MASK_SUFFIXES if stem + suffix in masks), None)
