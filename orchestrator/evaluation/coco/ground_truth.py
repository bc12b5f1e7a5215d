"""The truth that predictions are compared with: a COCO annotation file as checked arrays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import OrchError, UsageError
from orchestrator.predictions import rle
from orchestrator.predictions.annotations import read_annotations

Iou = Literal["segm", "bbox"]
MAX_COORDINATE = 1e5  # pixels; pycocotools walks along a polygon's edges, so one far away takes all memory
MAX_AREA = 1e10  # COCO's own upper bound of an area


@dataclass(frozen=True)
class Truth:
    """I images and N annotations of K categories; positions count from 0 in the order of `image_ids`.

    `sizes` (I,2) are height and width, zeros where the file does not say. `boxes` (N,4) are x, y, width, height in
    pixels, `areas` (N,) square pixels. `masks` are COCO RLE dictionaries, or None when boxes are compared.
    """

    path: Path
    image_ids: NDArray[np.int64]
    files: list[str]
    sizes: NDArray[np.int64]
    categories: dict[int, str]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    masks: list[dict[str, Any]] | None

    def __len__(self) -> int:
        return len(self.image_ids)

    def restricted(self, categories: Iterable[int]) -> Truth:
        """The same images with the annotations of some categories only."""
        wanted = set(categories)
        keep = np.isin(self.category, np.array(sorted(wanted), np.int64))
        return self._with(
            keep=keep,
            categories={number: name for number, name in self.categories.items() if number in wanted},
        )

    def only_images(self, images: NDArray[np.bool_]) -> Truth:
        """The images selected by `images` (I,), and their annotations."""
        position = np.cumsum(images) - 1
        keep = images[self.image]
        places = np.flatnonzero(images)
        return self._with(
            keep=keep,
            image_ids=self.image_ids[images],
            files=[self.files[place] for place in places],
            sizes=self.sizes[images],
            image=position[self.image[keep]],
        )

    def _with(self, keep: NDArray[np.bool_], **changed: Any) -> Truth:
        masks = None if self.masks is None else [self.masks[place] for place in np.flatnonzero(keep)]
        kept = {name: getattr(self, name)[keep] for name in ("image", "category", "boxes", "areas", "crowd")}
        others = {name: getattr(self, name) for name in ("path", "image_ids", "files", "sizes", "categories")}
        return Truth(**{**others, **kept, "masks": masks, **changed})

    def images_with(self, category: int) -> int:
        """How many images have at least one annotation of a category."""
        return len(np.unique(self.image[self.category == category]))


def read_truth(path: Path, iou: Iou) -> Truth:
    """Read and check a COCO annotation file for comparing boxes or masks.

    Crowd regions stay (COCO ignores what they match); left-out `iscrowd` and `area` get what they mean. Raises
    UsageError, naming the annotation, for whatever pycocotools would crash on, or silently count as something else.
    """
    dataset = read_annotations(path)
    images, annotations = dataset["images"], dataset["annotations"]
    _check_ids(dataset, path)
    position = {image["id"]: place for place, image in enumerate(images)}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    sizes = np.array([_size(image) for image in images], np.int64).reshape(-1, 2)
    if not _all_plain(annotations, position, names):
        for annotation in annotations:
            fault = _annotation_fault(annotation, position, names)
            if fault:
                raise _wrong(annotation, path, fault)
    image = np.array([position[one["image_id"]] for one in annotations], np.int64)
    boxes = np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4)
    return Truth(
        path=path,
        image_ids=np.array([one["id"] for one in images], np.int64),
        files=[one["file_name"] for one in images],
        sizes=sizes,
        categories=dict(sorted(names.items())),
        image=image,
        category=np.array([one["category_id"] for one in annotations], np.int64),
        boxes=boxes,
        areas=np.array([one.get("area", one["bbox"][2] * one["bbox"][3]) for one in annotations], np.float64),
        crowd=np.array([bool(one.get("iscrowd", 0)) for one in annotations], bool),
        masks=_masks(annotations, sizes[image], path) if iou == "segm" else None,
    )


def _check_ids(dataset: dict[str, Any], path: Path) -> None:
    """COCO's index would keep the last of two equal ids and lose the others."""
    for what in ("images", "categories"):
        number, count = Counter(one["id"] for one in dataset[what]).most_common(1)[0] if dataset[what] else (0, 0)
        if count > 1:
            raise UsageError(f"the annotations {path} are ambiguous", why=f"{count} {what} have the id {number}")


def _size(image: dict[str, Any]) -> tuple[int, int]:
    sides: list[Any] = [image.get("height"), image.get("width")]
    if not _whole(sides) or not 0 < math.prod(sides) <= rle.MAX_PIXELS:
        return (0, 0)
    return (sides[0], sides[1])


def _all_plain(annotations: list[dict[str, Any]], images: dict[int, int], categories: dict[int, str]) -> bool:
    """Whether all annotations are surely right, found out over whole columns; if not, each has to be looked at."""
    boxes = [side for one in annotations for side in one["bbox"]]
    areas = [one.get("area", 0) for one in annotations]
    if {type(value) for value in (*boxes, *areas)} - {int, float} or len(boxes) != 4 * len(annotations):
        return False
    numbers = np.array(boxes, np.float64).reshape(-1, 4)
    return bool(
        {len(one["bbox"]) for one in annotations} <= {4}
        and np.isfinite(numbers).all()
        and (numbers[:, 2:] >= 0).all()
        and all(0 <= area <= MAX_AREA for area in areas)
        and {one["image_id"] for one in annotations} <= images.keys()
        and {one["category_id"] for one in annotations} <= categories.keys()
        and {one.get("iscrowd", 0) for one in annotations} <= {0, 1}
    )


def _annotation_fault(annotation: dict[str, Any], images: dict[int, int], categories: dict[int, str]) -> str | None:
    if annotation["image_id"] not in images:
        return f"there is no image {annotation['image_id']}"
    if annotation["category_id"] not in categories:
        return f"there is no category {annotation['category_id']}"
    box = annotation["bbox"]
    if len(box) != 4 or not _numbers([*box, annotation.get("area", 0)]):
        return "its bbox or area is not made of numbers"
    if min(box[2:]) < 0 or not 0 <= annotation.get("area", 0) <= MAX_AREA:
        return "its bbox or area is negative or beyond all bounds"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "its iscrowd is neither 0 nor 1"
    return None


def _masks(annotations: list[dict[str, Any]], sizes: NDArray[np.int64], path: Path) -> list[dict[str, Any]]:
    """One compressed RLE for each annotation, however it is written in the file."""
    masks: list[dict[str, Any]] = []
    compressed: list[int] = []
    for place, (annotation, size) in enumerate(zip(annotations, sizes.tolist(), strict=True)):
        given = annotation.get("segmentation")
        if not all(size):
            raise _wrong(annotation, path, "its image has no height and width")
        mask = _polygons(given, size) if isinstance(given, list) else _run_lengths(given, size)
        if isinstance(mask, str):
            raise _wrong(annotation, path, mask)
        if isinstance(given, dict) and not isinstance(given["counts"], list):
            compressed.append(place)
        masks.append(mask)
    _check_compressed([masks[place] for place in compressed], [annotations[place] for place in compressed], path)
    return masks


def _polygons(polygons: list[Any], size: list[int]) -> dict[str, Any] | str:
    from pycocotools import mask as coco_mask

    if not polygons or not all(_is_polygon(points) for points in polygons):
        return "its segmentation is no list of polygons of at least three points"
    merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    return merged


def _run_lengths(given: Any, size: list[int]) -> dict[str, Any] | str:
    from pycocotools import mask as coco_mask

    if not isinstance(given, dict) or list(given.get("size", ())) != size:
        return "its segmentation is neither polygons nor run lengths of the image's size"
    counts = given.get("counts")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode(errors="replace")}
    if not isinstance(counts, list):
        return "its segmentation has no counts"
    if not _whole(counts) or sum(counts) != math.prod(size):
        return "its run lengths do not add up to the image's size"
    encoded: dict[str, Any] = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    return encoded


def _check_compressed(masks: list[dict[str, Any]], annotations: list[dict[str, Any]], path: Path) -> None:
    """pycocotools trusts what it is given: wrong run lengths there read and write outside its memory."""
    data = np.frombuffer(b"".join(mask["counts"] for mask in masks), np.uint8)
    offsets = np.cumsum([0, *(len(mask["counts"]) for mask in masks)], dtype=np.int64)
    sizes = np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2)
    good = rle.check_all(data, offsets, sizes)
    if good.all():
        return
    first = int(np.argmin(good))
    try:
        rle.check(masks[first]["counts"], masks[first]["size"])
        fault = "its run lengths do not add up to the image's size"
    except OrchError as error:
        fault = error.why or error.message
    raise _wrong(annotations[first], path, fault)


def _wrong(annotation: dict[str, Any], path: Path, fault: str) -> UsageError:
    return UsageError(f"annotation {annotation['id']} of {path} cannot be used", why=fault)


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and _numbers(points)
        and all(abs(value) <= MAX_COORDINATE for value in points)
    )


def _numbers(values: list[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


def _whole(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value <= rle.MAX_PIXELS for value in values)
