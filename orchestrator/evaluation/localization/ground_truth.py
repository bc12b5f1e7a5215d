"""Where the true masks of manipulated images are: a folder of masks, or a data set in one of IMDL-BenCo's layouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.inputs.benco_datasets import NEGATIVE, Sample, is_tp_gt, read_data_set
from orchestrator.inputs.collect import read_inputs
from orchestrator.paths import RunPaths
from orchestrator.predictions.annotations import find_images

SUFFIXES = ("", "_gt", "_mask", "-mask", "_edgemask")
PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".gif", ".webp")


@dataclass(frozen=True)
class TrueMask:
    """An image and its mask; None: the image was not manipulated."""

    image: str
    mask: Path | None


def read_truth(source: Path, images: Sequence[str]) -> list[TrueMask]:
    """The masks that `source` has, in its order.

    A folder with Tp/ and Gt/ or a .json is one of IMDL-BenCo's data sets (`manipulation_data`); any other folder holds
    masks under the relative paths of `images`. Images without a known mask are left out. Raises UsageError.
    """
    if source.is_dir() and not is_tp_gt(source):
        found = list(_folder(source, images))
    elif source.is_dir() or source.suffix.lower() == ".json":
        found = [TrueMask(sample.image.as_posix(), _mask(sample.mask)) for sample in _data_set(source) if sample.mask]
    else:
        raise UsageError(f"there are no masks at {source}", why="it is neither a folder nor a .json data set")
    if not found:
        raise UsageError(f"no mask of {source} belongs to an image", hint="name masks as their images are named")
    return found


def recorded_truth(run: Path) -> list[TrueMask]:
    """The masks that came with a run's images, where those were a data set; none for other runs."""
    recorded = RunPaths(run).inputs
    if not recorded.is_file():
        return []
    return [
        TrueMask(image.file, None if image.truth == NEGATIVE else Path(image.truth))
        for image in read_inputs(recorded)
        if image.truth is not None
    ]


def _data_set(source: Path) -> tuple[Sample, ...]:
    try:
        return read_data_set(source).samples
    except RecursionError as error:
        raise UsageError(f"{source} names itself") from error


def _mask(mask: Path | str | None) -> Path | None:
    """Nothing is masked in an image that nobody manipulated."""
    return mask if isinstance(mask, Path) else None


def places_of(truth: Sequence[TrueMask], files: Sequence[str]) -> NDArray[np.int64]:
    """(T,) where each true mask's image is among the predicted `files`, -1 where it is not.

    Found by the longest end of its path that is one of them, else by a base name that is unique on both sides.
    """
    known = {file: place for place, file in enumerate(files)}
    places = find_images([one.image for one in truth], files)
    for number, one in enumerate(truth):
        parts = one.image.split("/")
        ends = ("/".join(parts[first:]) for first in range(len(parts)))
        places[number] = next((known[end] for end in ends if end in known), places[number])
    return places


def _folder(folder: Path, images: Sequence[str]) -> Iterator[TrueMask]:
    """Masks beside nothing: x/a.jpg has x/a.png, x/a_gt.png or x/a.jpg.png."""
    for image in images:
        mask = _named_like(folder / image)
        if mask is not None:
            yield TrueMask(image, mask)


def _named_like(place: Path) -> Path | None:
    """The mask of the image that would lie at `place`."""
    names = [f"{place.stem}{suffix}{ending}" for suffix in SUFFIXES for ending in PICTURES]
    names += [f"{place.name}{ending}" for ending in PICTURES]
    return next((place.with_name(name) for name in names if place.with_name(name).is_file()), None)
