"""Check a predictions file against the format, rule by rule over whole arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.catalog import task_of
from orchestrator.errors import OrchError, PredictionsError
from orchestrator.inputs import is_image_id
from orchestrator.predictions import rle
from orchestrator.predictions.npz import KeptArrays, RowReader
from orchestrator.predictions.schema import (
    FARTHEST,
    FORMAT,
    FORMATS,
    META,
    PAIRED,
    STATUS_FAILED,
    ArraySpec,
    Problem,
    is_class,
    specs_of,
)

BOX_TOLERANCE = 1e-3  # pixels; float32 arithmetic of models puts boxes this far outside the image
MASKS = "masks"  # the one array that is too large to be in memory in any case

Selection = NDArray[np.bool_]


def find_problems(
    arrays: KeptArrays, limit: int, with_masks: bool = True
) -> tuple[list[Problem], NDArray[np.int64] | None]:
    """Return all problems, at most `limit` of each kind; content is checked only when the structure holds.

    Masks are read piece by piece unless they are in memory; with `with_masks` False their content is not checked. If
    it was, and could be, also return (N,) the pixels in each mask, -1 where it is broken.
    """
    sound: dict[str, NDArray[Any]] = {}
    problems = _check_structure(arrays, specs_of(_read_format(arrays)), sound)
    if problems:
        return problems, None
    content = _Content(sound, limit, _open_masks(arrays) if with_masks else None)
    return content.check(), content.mask_areas


def _open_masks(arrays: KeptArrays) -> RowReader | None:
    if MASKS not in arrays:
        return None
    return RowReader(arrays.header(MASKS), arrays.chunks(MASKS), lambda: PredictionsError("masks end too early"))


def _read_format(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the format that `meta` names, FORMAT where that cannot be read or is unknown."""
    try:
        version = json.loads(str(arrays["meta"][()]))["format"]
    except (OrchError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return FORMAT
    return version if isinstance(version, str) and version in FORMATS else FORMAT


def _check_structure(
    arrays: KeptArrays, specs: Mapping[str, ArraySpec], sound: dict[str, NDArray[Any]]
) -> list[Problem]:
    """Return missing, unknown and unreadable arrays, wrong dtypes and shapes; put the others but masks in `sound`."""
    problems = [Problem(name, "the format has no array of this name") for name in arrays if name not in specs]
    for name, other in (PAIRED, PAIRED[::-1]):
        if name in arrays and other not in arrays and specs[other].optional:
            problems.append(Problem(other, f"the array is missing, but there is {name!r}"))
    for spec in specs.values():
        if spec.name not in arrays:
            if not spec.optional:
                problems.append(Problem(spec.name, "the array is missing"))
            continue
        try:
            header = arrays.header(spec.name)
            fault = spec.find_fault(header)
            if fault is None and spec.name != MASKS:
                sound[spec.name] = arrays[spec.name]
        except OrchError as error:
            fault = f"cannot be read: {error.why or error}"
        if fault:
            problems.append(Problem(spec.name, fault))
    return problems + list(_compare_sizes(sound, specs))


def _compare_sizes(arrays: Mapping[str, NDArray[Any]], specs: Mapping[str, ArraySpec]) -> Iterator[Problem]:
    sizes: dict[int | str, int] = {}
    for letter, name in (("I", "image_file"), ("N", "scores")):
        if name in arrays:
            sizes |= {letter: len(arrays[name]), f"{letter}+1": len(arrays[name]) + 1}
    for name, array in arrays.items():
        for side, symbol in zip(array.shape, specs[name].shape, strict=True):
            if side != sizes.get(symbol, side):
                yield Problem(name, f"its length is {side}, but {symbol} = {sizes[symbol]}")


class _Content:
    """Checks the values of arrays that have the right dtypes and shapes."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], limit: int, masks: RowReader | None) -> None:
        self.arrays = arrays
        self.limit = limit
        self.masks = masks
        self.problems: list[Problem] = []
        self.image_of_row: NDArray[np.int64] | None = None
        self.mask_areas: NDArray[np.int64] | None = None
        self.meta: dict[str, Any] = {}

    def check(self) -> list[Problem]:
        rules: tuple[Callable[[], None], ...] = (
            self._check_meta,
            self._check_categories,
            self._check_files,
            self._check_ids,
            self._check_status,
            self._check_offsets,
            self._check_scores,
            self._check_boxes,
            self._check_classes,
            self._check_attributes,
            self._check_image_scores,
            self._check_masks,
        )
        for rule in rules:
            rule()
        return self.problems

    def _report(self, array: str, message: str) -> None:
        self.problems.append(Problem(array, message))

    def _report_images(self, array: str, bad: NDArray[np.bool_] | np.bool_, message: str) -> None:
        """Report the images selected by `bad` (I,)."""
        files = self.arrays["image_file"]
        self._report_limited(array, np.flatnonzero(bad), message, lambda i: (str(files[i]), None))

    def _report_rows(self, array: str, bad: Selection, message: str) -> None:
        """Report the instances selected by `bad` (N,)."""
        images, files = self.image_of_row, self.arrays["image_file"]

        def describe(row: int) -> tuple[str | None, int]:
            return None if images is None else str(files[images[row]]), row

        self._report_limited(array, np.flatnonzero(bad), message, describe)

    def _report_limited(
        self,
        array: str,
        indices: NDArray[np.int64],
        message: str,
        describe: Callable[[int], tuple[str | None, int | None]],
    ) -> None:
        for index in indices[: self.limit].tolist():
            image, row = describe(index)
            self.problems.append(Problem(array, message, image, row))
        if len(indices) > self.limit:
            self._report(array, f"{message}: {len(indices) - self.limit} more")

    def _check_meta(self) -> None:
        try:
            meta = json.loads(str(self.arrays["meta"][()]))
        except (ValueError, RecursionError) as error:
            return self._report("meta", f"is not JSON: {error}")
        if not isinstance(meta, dict):
            return self._report("meta", "is not a JSON object")
        self.meta = meta
        if meta.get("format") not in FORMATS:
            self._report("meta", f"format is {meta.get('format')!r}, not {FORMAT!r}")
        for key in META:
            if key not in meta:
                self._report("meta", f"lacks {key!r}")

    def _check_categories(self) -> None:
        categories = self.meta.get("categories", [])
        well_formed = isinstance(categories, list) and all(
            isinstance(entry, dict) and is_class(entry.get("id")) and isinstance(entry.get("name"), str)
            for entry in categories
        )
        if not well_formed:
            return self._report("meta", "categories is not a list of {id, name}")
        if len({entry["id"] for entry in categories}) != len(categories):
            self._report("meta", "two categories have the same id")

    def _check_files(self) -> None:
        files = self.arrays["image_file"]
        _, first = np.unique(files, return_index=True)
        repeated = np.ones(len(files), bool)
        repeated[first] = False
        self._report_images("image_file", repeated, "an image before has the same file")
        unsafe = np.fromiter((_leaves_root(file) for file in files.tolist()), bool, len(files))
        self._report_images("image_file", unsafe, "is not a plain path relative to the input root")

    def _check_ids(self) -> None:
        if "image_id" in self.arrays:
            ids = self.arrays["image_id"]
            _, first = np.unique(ids, return_index=True)
            repeated = np.ones(len(ids), bool)
            repeated[first] = False
            self._report_images("image_id", repeated, "an image before has the same id")
            if ids.dtype.kind == "U":
                broken = np.fromiter((not _is_id(text) for text in ids.tolist()), bool, len(ids))
                self._report_images("image_id", broken, "is not the JSON of a number or text")

    def _check_status(self) -> None:
        status, has_reason = self.arrays["status"], np.not_equal(self.arrays["error"], "")
        self._report_images("status", status > STATUS_FAILED, "is neither 0 (predicted) nor 1 (failed)")
        self._report_images("error", (status == STATUS_FAILED) & ~has_reason, "the image failed, but has no reason")
        self._report_images("error", (status == 0) & has_reason, "the image was predicted, but has an error")
        sizes = self.arrays["image_size"]
        self._report_images("image_size", (sizes < 0).any(axis=1), "is negative")
        unknown = (status == 0) & (sizes == 0).any(axis=1)
        self._report_images("image_size", unknown, "the image was predicted, but has no size")
        if "image_sha256" in self.arrays and not self.meta.get("imported"):  # whose images were never read
            unread = (status == 0) & ~self.arrays["image_sha256"].any(axis=1)
            self._report_images("image_sha256", unread, "the image was predicted, but has no digest")

    def _check_offsets(self) -> None:
        offsets, count = self.arrays["offsets"], len(self.arrays["scores"])
        down = offsets[1:] < offsets[:-1]
        self._report_images("offsets", down, "the next image's instances start before this one's")
        if offsets[0] != 0 or offsets[-1] != count:
            self._report("offsets", f"runs from {offsets[0]} to {offsets[-1]}, not from 0 to {count}")
        elif not down.any():
            self.image_of_row = np.repeat(np.arange(len(down)), np.diff(offsets))
            has_instances = (self.arrays["status"] == STATUS_FAILED) & (np.diff(offsets) > 0)
            self._report_images("offsets", has_instances, "the image failed, but has instances")

    def _check_scores(self) -> None:
        scores = self.arrays["scores"]
        finite = np.isfinite(scores)
        self._report_rows("scores", ~finite, "is not finite")
        self._report_rows("scores", finite & ((scores < 0) | (scores > 1)), "is outside [0, 1]")
        if self.image_of_row is not None:
            rising = np.zeros(len(scores), bool)
            same = self.image_of_row[1:] == self.image_of_row[:-1]
            rising[1:] = same & (scores[1:] > scores[:-1])
            self._report_rows("scores", rising, "is higher than the one before it in the image")

    def _check_boxes(self) -> None:
        boxes = self.arrays["boxes"]
        finite = np.isfinite(boxes).all(axis=1)
        self._report_rows("boxes", ~finite, "is not finite")
        flipped = finite & ((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
        self._report_rows(
            "boxes", flipped, "has its right edge left of the left one, or its lower edge above the upper one"
        )
        if self.image_of_row is not None:
            edges = self.arrays["image_size"][self.image_of_row][:, [1, 0]].astype(np.float64)
            low, high = boxes.min(axis=1, initial=np.inf), boxes.reshape(-1, 2, 2).max(axis=1)
            reach = FARTHEST if self.meta.get("imported") else BOX_TOLERANCE
            outside = (low < -reach) | (high > edges + reach).any(axis=1)
            self._report_rows("boxes", finite & outside, "reaches outside the image")

    def _check_classes(self) -> None:
        categories = self.meta.get("categories")
        if isinstance(categories, list):
            ids = [c["id"] for c in categories if isinstance(c, dict) and is_class(c.get("id"))]
            is_unknown = ~np.isin(self.arrays["classes"], np.array(ids, np.int32))
            self._report_rows("classes", is_unknown, "is not a category of meta")

    def _check_attributes(self) -> None:
        names = self.meta.get("attribute_names")
        if "attributes" not in self.arrays:
            if names:
                self._report("attributes", "the array is missing, but meta has attribute_names")
            return
        attributes = self.arrays["attributes"]
        self._report_rows("attributes", ~np.isfinite(attributes).all(axis=1), "is not finite")
        if names is not None and (not isinstance(names, list) or len(names) != attributes.shape[1]):
            self._report("meta", f"attribute_names is not a list of {attributes.shape[1]} names")

    def _check_image_scores(self) -> None:
        if "image_scores" in self.arrays:
            scores = self.arrays["image_scores"]
            self._report_images("image_scores", (scores < 0) | (scores > 1), "is outside [0, 1]")

    def _check_masks(self) -> None:
        if self.masks is None:
            return None
        task = task_of(self.meta)
        if not task.has_masks:
            self._report("masks", f"the task {task.name} has no masks")
            return None
        offsets, length = self.arrays["mask_offsets"], self.masks.length
        down = offsets[1:] < offsets[:-1]
        self._report_rows("mask_offsets", down, "the next mask starts before this one")
        if offsets[0] != 0 or offsets[-1] != length:
            ends = f"runs from {offsets[0]} to {offsets[-1]}, not from 0 to {length}"
            return self._report("mask_offsets", ends)
        if down.any() or self.image_of_row is None:
            return None
        sizes = self.arrays["image_size"][self.image_of_row]
        try:
            self.mask_areas = rle.measure_all(self.masks.take, offsets, sizes)
            self.masks.is_at_end()  # compares the checksum
        except OrchError as error:
            return self._report(MASKS, f"cannot be read: {error.why or error}")
        self._report_rows(MASKS, self.mask_areas < 0, "is not COCO RLE of the image's size")


def _is_id(text: str) -> bool:
    try:
        return is_image_id(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _leaves_root(file: str) -> bool:
    """Say whether a file name is not a plain relative path, so that it could point outside a folder."""
    return "\0" in file or any(part in ("", ".", "..") for part in file.split("/"))


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[int, str], list[str]]:
    """Check arrays that are in memory, those of a shard with the meta of its run.

    Returns the first problem of each image at fault, by its position, and the problems that belong to no image.
    """
    sound: dict[str, NDArray[Any]] = {}
    kept = KeptArrays(arrays)
    structure = _check_structure(kept, specs_of(_read_format(arrays)), sound)
    if structure:
        return {}, [str(problem) for problem in structure]
    content = _ContentByImage(sound, 0, _open_masks(kept))
    others = [str(problem) for problem in content.check()]
    if content.image_of_row is None:  # which rows are whose is not known
        return {}, [*others, *content.by_image.values()]
    return content.by_image, others


class _ContentByImage(_Content):
    """Notes one problem per image instead of a limited number of each kind."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], limit: int, masks: RowReader | None) -> None:
        super().__init__(arrays, limit, masks)
        self.by_image: dict[int, str] = {}

    def _report_images(self, array: str, bad: NDArray[np.bool_] | np.bool_, message: str) -> None:
        if bad.any():
            for image in np.flatnonzero(bad).tolist():
                self.by_image.setdefault(image, f"{array}: {message}")

    def _report_rows(self, array: str, bad: Selection, message: str) -> None:
        if not bad.any():
            return
        if self.image_of_row is None:
            self._report(array, message)
            return
        for image in np.unique(self.image_of_row[bad]).tolist():
            self.by_image.setdefault(image, f"{array}: {message}")
