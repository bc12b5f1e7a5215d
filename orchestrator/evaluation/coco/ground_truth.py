"""The truth that predictions are compared with: a COCO annotation file, checked, as arrays."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import OrchError, UsageError
from orchestrator.evaluation.coco.attribute_truth import AttributeTruth, read_attributes
from orchestrator.evaluation.coco.federated import Federation, make_keys, read_federation
from orchestrator.inputs import ImageId, order_of_id
from orchestrator.predictions import read_annotations, rle

Iou = Literal["segm", "bbox"]
MAX_COORDINATE = 1e5  # pixels; pycocotools stores all points of a polygon's edges: a distant one takes all memory
MAX_AREA = 1e10  # COCO's own upper bound of an area
_INT64_END = 1 << 63


@dataclass(frozen=True)
class Truth:
    """I images and N annotations of K categories; `image` (N,) are indices of images.

    Images stand in ascending order of their ids: COCO goes through them in this order, which decides between equal
    scores. `sizes` (I,2) are height and width, zeros where the file does not say. `boxes` (N,4) are x, y, width, height
    in pixels, `areas` (N,) square pixels. `masks` are COCO RLE dictionaries, or None when boxes are compared.
    `federation`: LVIS's rules apply. `attributes`: the file has some, as Fashionpedia's.
    """

    path: Path
    files: list[str]
    sizes: NDArray[np.int64]
    categories: dict[int, str]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    masks: list[dict[str, Any]] | None
    federation: Federation | None = None
    attributes: AttributeTruth | None = None

    def __len__(self) -> int:
        return len(self.files)

    def index_categories(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of categories in `categories`, which must have all of `ids`."""
        return np.searchsorted(np.array(list(self.categories), np.int64), ids)

    def keep_categories(self, categories: Iterable[int]) -> Truth:
        """Return the same images with the annotations of some categories only."""
        wanted = set(categories)
        keep = np.isin(self.category, np.array(sorted(wanted), np.int64))
        return self._keep(keep, categories={n: name for n, name in self.categories.items() if n in wanted})

    def keep_images(self, images: NDArray[np.bool_]) -> Truth:
        """Return the images selected by `images` (I,), and their annotations."""
        new_index = np.cumsum(images) - 1
        keep = images[self.image]
        return self._keep(
            keep,
            files=[self.files[index] for index in np.flatnonzero(images)],
            sizes=self.sizes[images],
            image=new_index[self.image[keep]],
            federation=None if self.federation is None else self.federation.keep_images(images),
        )

    def _keep(self, keep: NDArray[np.bool_], **changed: Any) -> Truth:
        """Return the annotations selected by `keep` (N,), with other fields changed."""
        masks = None if self.masks is None else [self.masks[index] for index in np.flatnonzero(keep)]
        kept = {name: getattr(self, name)[keep] for name in ("image", "category", "boxes", "areas", "crowd")}
        attributes = None if self.attributes is None else self.attributes.keep(keep)
        return replace(self, **{**kept, "masks": masks, "attributes": attributes, **changed})

    def are_searched(self, image: NDArray[np.int64], category: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (D,) whether each category was looked for in its image; everywhere without LVIS's lists."""
        if self.federation is None:
            return np.ones(len(image), bool)
        known = self._make_keys(self.image, self.category)
        absent = make_keys(self.federation.absent, list(self.categories))
        return np.isin(self._make_keys(image, category), np.concatenate((known, absent)))

    def are_partial(self, image: NDArray[np.int64], category: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (D,) whether instances of each category may be missing in the truth of its image."""
        if self.federation is None:
            return np.zeros(len(image), bool)
        partial = make_keys(self.federation.partial, list(self.categories))
        return np.isin(self._make_keys(image, category), partial)

    def _make_keys(self, image: NDArray[np.int64], category: NDArray[np.int64]) -> NDArray[np.int64]:
        return image * len(self.categories) + self.index_categories(category)

    def count_images_with(self, category: int) -> int:
        """Count the images with at least one annotation of a category."""
        return len(np.unique(self.image[self.category == category]))


def read_truth(path: Path, iou: Iou) -> Truth:
    """Read and check a COCO annotation file for comparing boxes or masks.

    Crowd regions are kept (COCO ignores what they match); a missing `iscrowd` is 0, a missing `area` that of the mask
    or, where boxes are compared, of the box. Raises UsageError, naming the annotation, for everything that pycocotools
    would crash on or silently misread.
    """
    dataset = read_annotations(path)
    images, annotations = sorted(dataset["images"], key=lambda image: order_of_id(image["id"])), dataset["annotations"]
    _check_ids(dataset, path)
    indices = {image["id"]: index for index, image in enumerate(images)}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    sizes = np.array([_size(image) for image in images], np.int64).reshape(-1, 2)
    if not _are_all_valid(annotations, indices, names):
        for annotation in annotations:
            if fault := _find_fault(annotation, indices, names):
                raise _invalid(annotation, path, fault)
    image = np.array([indices[entry["image_id"]] for entry in annotations], np.int64)
    boxes = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    masks = _encode_masks(annotations, sizes[image], path) if iou == "segm" else None
    return Truth(
        path=path,
        files=[entry["file_name"] for entry in images],
        sizes=sizes,
        categories=dict(sorted(names.items())),
        image=image,
        category=np.array([entry["category_id"] for entry in annotations], np.int64),
        boxes=boxes,
        areas=_fill_areas([entry.get("area") for entry in annotations], boxes, masks),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in annotations], bool),
        masks=masks,
        federation=read_federation(dataset, images, path),
        attributes=read_attributes(dataset, annotations),
    )


def _fill_areas(
    given: list[float | None], boxes: NDArray[np.float64], masks: list[dict[str, Any]] | None
) -> NDArray[np.float64]:
    """Return (N,) areas: those given, else those of the masks or, without masks, of the boxes."""
    is_missing = np.array([area is None for area in given], bool)
    areas = np.array([0 if area is None else area for area in given], np.float64)
    if masks is None:
        areas[is_missing] = boxes[is_missing, 2:].prod(axis=1)
    elif is_missing.any():
        from pycocotools import mask as coco_mask

        areas[is_missing] = coco_mask.area([masks[index] for index in np.flatnonzero(is_missing)])
    return areas


def _check_ids(dataset: dict[str, Any], path: Path) -> None:
    """Refuse equal ids, of which COCO's index would keep the last alone, and category ids beyond int64."""
    for what in ("images", "categories"):
        number, count = Counter(entry["id"] for entry in dataset[what]).most_common(1)[0] if dataset[what] else (0, 0)
        if count > 1:
            raise UsageError(f"the annotations {path} are ambiguous", why=f"{count} {what} have the id {number}")
    for category in dataset["categories"]:
        if not -_INT64_END <= category["id"] < _INT64_END:
            why = f"the category {category['name']!r} has the id {category['id']}; predictions have ids of 32 bits"
            raise UsageError(
                f"the annotations {path} cannot be used",
                why=why,
                hint="give the categories of the annotations the ids that the predictions have in meta.categories",
            )


def _size(image: dict[str, Any]) -> tuple[int, int]:
    sides: list[Any] = [image.get("height"), image.get("width")]
    is_known = _are_whole(sides) and 0 < math.prod(sides) <= rle.MAX_PIXELS
    return (sides[0], sides[1]) if is_known else (0, 0)


def _are_all_valid(annotations: list[dict[str, Any]], images: dict[ImageId, int], categories: dict[int, str]) -> bool:
    """Say whether all annotations are certainly valid, checking whole columns at once."""
    boxes = [side for entry in annotations for side in entry["bbox"]]
    areas = [entry.get("area", 0) for entry in annotations]
    if {type(value) for value in (*boxes, *areas)} - {int, float} or len(boxes) != 4 * len(annotations):
        return False
    try:
        numbers = np.array(boxes, np.float64).reshape(-1, 4)
    except OverflowError:  # an integer beyond all floats
        return False
    return bool(
        {len(entry["bbox"]) for entry in annotations} <= {4}
        and np.isfinite(numbers).all()
        and (numbers[:, 2:] >= 0).all()
        and all(0 <= area <= MAX_AREA for area in areas)
        and {entry["image_id"] for entry in annotations} <= images.keys()
        and {entry["category_id"] for entry in annotations} <= categories.keys()
        and {entry.get("iscrowd", 0) for entry in annotations} <= {0, 1}
    )


def _find_fault(annotation: dict[str, Any], images: dict[ImageId, int], categories: dict[int, str]) -> str | None:
    if annotation["image_id"] not in images:
        return f"the file has no image {annotation['image_id']!r}"
    if annotation["category_id"] not in categories:
        return f"the file has no category {annotation['category_id']}"
    box = annotation["bbox"]
    if len(box) != 4 or not _are_numbers([*box, annotation.get("area", 0)]):
        return "its bbox or area does not consist of numbers"
    if min(box[2:]) < 0 or not 0 <= annotation.get("area", 0) <= MAX_AREA:
        return f"its bbox or area is negative, or its area above {MAX_AREA:g}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "its iscrowd is neither 0 nor 1"
    return None


def _encode_masks(annotations: list[dict[str, Any]], sizes: NDArray[np.int64], path: Path) -> list[dict[str, Any]]:
    """Return each annotation's mask as compressed RLE, from polygons or run lengths."""
    masks: list[dict[str, Any]] = []
    compressed: list[int] = []
    for index, (annotation, size) in enumerate(zip(annotations, sizes.tolist(), strict=True)):
        given = annotation.get("segmentation")
        if not all(size):
            raise _invalid(annotation, path, "its image has no height and width")
        mask = _encode_polygons(given, size) if isinstance(given, list) else _encode_run_lengths(given, size)
        if isinstance(mask, str):
            raise _invalid(annotation, path, mask)
        if isinstance(given, dict) and not isinstance(given["counts"], list):
            compressed.append(index)
        masks.append(mask)
    _check_compressed([masks[index] for index in compressed], [annotations[index] for index in compressed], path)
    return masks


def _encode_polygons(polygons: list[Any], size: list[int]) -> dict[str, Any] | str:
    from pycocotools import mask as coco_mask

    if not polygons or not all(_is_polygon(points) for points in polygons):
        return "its segmentation is not a list of polygons of at least three points"
    merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    return merged


def _encode_run_lengths(given: Any, size: list[int]) -> dict[str, Any] | str:
    from pycocotools import mask as coco_mask

    if not isinstance(given, dict) or list(given.get("size", ())) != size:
        return "its segmentation is neither polygons nor run lengths of the image's size"
    counts = given.get("counts")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode(errors="replace")}
    if not isinstance(counts, list):
        return "its segmentation has no counts"
    if not _are_whole(counts) or sum(counts) != math.prod(size):
        return "its run lengths do not add up to the image's size"
    encoded: dict[str, Any] = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    return encoded


def _check_compressed(masks: list[dict[str, Any]], annotations: list[dict[str, Any]], path: Path) -> None:
    """Check compressed run lengths: wrong ones make pycocotools read and write outside its memory."""
    data = np.frombuffer(b"".join(mask["counts"] for mask in masks), np.uint8)
    offsets = np.cumsum([0, *(len(mask["counts"]) for mask in masks)], dtype=np.int64)
    sizes = np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2)
    is_sound = rle.check_all(data, offsets, sizes)
    if is_sound.all():
        return
    first = int(np.argmin(is_sound))
    try:
        rle.check(masks[first]["counts"], masks[first]["size"])
        fault = "its run lengths do not add up to the image's size"
    except OrchError as error:
        fault = error.why or error.message
    raise _invalid(annotations[first], path, fault)


def _invalid(annotation: dict[str, Any], path: Path, fault: str) -> UsageError:
    return UsageError(f"annotation {annotation['id']} of {path} cannot be used", why=fault)


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and _are_numbers(points)
        and all(abs(value) <= MAX_COORDINATE for value in points)
    )


def _are_numbers(values: list[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        for value in values
    )


def _are_whole(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= rle.MAX_PIXELS for value in values)
