"""Find the true masks of manipulated images, in a folder or in one of IMDL-BenCo's data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.inputs import NEGATIVE, Sample, is_tp_gt, read_data_set, read_inputs
from orchestrator.paths import RunPaths
from orchestrator.predictions import find_images

SUFFIXES = ("", "_gt", "_mask", "-mask", "_edgemask")
PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".gif", ".webp")


@dataclass(frozen=True)
class TrueMask:
    """An image and its mask; None if the image was not manipulated. `data_set`: its name in a list of data sets."""

    image: str
    mask: Path | None
    data_set: str | None = None


def read_masks(source: Path, images: Sequence[str]) -> list[TrueMask]:
    """Return the masks of `source`, in its order.

    A folder with Tp/ and Gt/ or a .json is one of IMDL-BenCo's data sets (`inputs.benco_datasets`); any other folder
    holds masks under the relative paths of `images`. Images without a known mask are skipped. Raises UsageError.
    """
    if source.is_dir() and not is_tp_gt(source):
        masks = list(_find_in_folder(source, images))
    elif source.is_dir() or source.suffix.lower() == ".json":
        # A mask that is no path marks an image as not manipulated.
        samples = [sample for sample in _read_samples(source) if sample.mask]
        masks = [
            TrueMask(sample.image.as_posix(), sample.mask if isinstance(sample.mask, Path) else None, sample.data_set)
            for sample in samples
        ]
    else:
        raise UsageError(f"cannot read true masks from {source}", why="it is neither a folder nor a .json data set")
    if not masks:
        raise UsageError(f"no mask of {source} belongs to an image", hint="name masks as their images are named")
    return masks


def read_recorded_masks(run: Path) -> list[TrueMask]:
    """Return the masks of a run whose images were a data set with masks; an empty list for other runs."""
    recorded = RunPaths(run).inputs
    if not recorded.is_file():
        return []
    return [
        TrueMask(image.file, None if image.truth == NEGATIVE else Path(image.truth), image.data_set)
        for image in read_inputs(recorded)
        if image.truth is not None
    ]


def _read_samples(source: Path) -> tuple[Sample, ...]:
    try:
        return read_data_set(source).samples
    except RecursionError as error:
        raise UsageError(f"the data set {source} contains itself") from error


def find_positions(truth: Sequence[TrueMask], files: Sequence[str]) -> NDArray[np.int64]:
    """Return (T,) the index in the predicted `files` of each true mask's image, -1 if it is not there.

    An image is found by the longest end of its path that is one of `files`, else by a base name unique on both sides.
    """
    known = {file: index for index, file in enumerate(files)}
    positions = find_images([mask.image for mask in truth], files)
    for index, mask in enumerate(truth):
        parts = mask.image.split("/")
        ends = ("/".join(parts[first:]) for first in range(len(parts)))
        positions[index] = next((known[end] for end in ends if end in known), positions[index])
    return positions


def _find_in_folder(folder: Path, images: Sequence[str]) -> Iterator[TrueMask]:
    """Yield the masks in a folder of masks only: x/a.png, x/a_gt.png or x/a.jpg.png for the image x/a.jpg."""
    for image in images:
        if (mask := _find_mask(folder / image)) is not None:
            yield TrueMask(image, mask)


def _find_mask(image: Path) -> Path | None:
    endings = [*PICTURES, *(ending.upper() for ending in PICTURES)]
    names = [f"{image.stem}{suffix}{ending}" for suffix in SUFFIXES for ending in endings]
    names += [f"{image.name}{ending}" for ending in endings]
    return next((image.with_name(name) for name in names if image.with_name(name).is_file()), None)
