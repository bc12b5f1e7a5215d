"""The truth that predictions are compared with: a COCO annotation file, checked, as arrays."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import OrchError, UsageError
from orchestrator.evaluation.coco import truth_checks
from orchestrator.evaluation.coco.attribute_truth import AttributeTruth, read_attributes
from orchestrator.evaluation.coco.federated import Federation, make_keys, read_federation
from orchestrator.inputs import ImageId, is_image_id, order_of_id
from orchestrator.predictions import Predictions, read_annotations, rle

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
    `warnings` say what is doubtful about the file; `skipped` name each annotation that was left out, and why.
    `unchosen_categories` are those of the file that are not compared. `federation`: LVIS's rules apply. `attributes`:
    the file has some, as Fashionpedia's.
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
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    unchosen_categories: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def index_categories(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of categories in `categories`, which must have all of `ids`."""
        return np.searchsorted(np.array(list(self.categories), np.int64), ids)

    def keep_categories(self, categories: Iterable[int]) -> Truth:
        """Return the same images with the annotations of some categories only."""
        wanted = set(categories)
        keep = np.isin(self.category, np.array(sorted(wanted), np.int64))
        kept = {n: name for n, name in self.categories.items() if n in wanted}
        others = {n: name for n, name in self.categories.items() if n not in wanted}
        return self._keep(keep, categories=kept, unchosen_categories={**self.unchosen_categories, **others})

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


def read_truth(path: Path, iou: Iou, predicted: Sequence[Predictions] = ()) -> Truth:
    """Read and check a COCO annotation file for comparing boxes or masks.

    Crowd regions are kept (COCO ignores what they match); a missing `iscrowd` is 0, a missing `area` that of the mask
    or, where boxes are compared, of the box. Sizes that the file lacks, or states turned, are those of `predicted`.
    At most `truth_checks.SKIPPABLE` of the annotations may be faulty: they are skipped and named. Raises UsageError,
    naming the annotation, for all else that pycocotools would crash on or silently misread.
    """
    dataset = read_annotations(path)
    _check_ids(dataset, path)
    images = sorted(dataset["images"], key=lambda image: order_of_id(image["id"]))
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    files = [entry["file_name"] for entry in images]
    log = truth_checks.TruthLog(path, iou, files)
    indices = {image["id"]: index for index, image in enumerate(images)}
    annotations = dataset["annotations"]
    if not _are_all_valid(annotations, indices, names):
        faults = {n: fault for n, entry in enumerate(annotations) if (fault := _find_fault(entry, indices, names))}
        annotations = log.skip(annotations, faults)
    image = _index_images(annotations, indices)
    stated = np.array([_size(entry) for entry in images], np.int64).reshape(-1, 2)
    sizes = truth_checks.complete_sizes(stated, predicted, image, annotations, log)
    masks: list[dict[str, Any]] | None = None
    if iou == "segm":
        masks, faults = _encode_masks(annotations, sizes[image])
        masks = [mask for n, mask in enumerate(masks) if n not in faults]
        annotations = log.skip(annotations, faults, truth_checks.BOXES_HINT)
        image = _index_images(annotations, indices)
    boxes = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    truth = Truth(
        path=path,
        files=files,
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
    return check_truth(truth, annotations, log)


def check_truth(truth: Truth, annotations: list[dict[str, Any]], log: truth_checks.TruthLog) -> Truth:
    """Return the truth without what cannot be meant, with its warnings. Raises UsageError, PredictionsError."""
    columns = truth_checks.Columns(annotations, truth.image, truth.sizes, truth.boxes, truth.areas, truth.crowd)
    outside = truth_checks.check_coordinates(columns, truth.masks, log)
    if outside:
        log.skip(annotations, outside, truth_checks.PIXELS_HINT)
        keep = np.ones(len(annotations), bool)
        keep[list(outside)] = False
        truth = truth._keep(keep)
    is_double = log.find_repeated_files()
    if is_double.any():
        truth = truth.keep_images(~is_double)
    return replace(truth, warnings=tuple(log.warnings), skipped=tuple(log.skipped))


def _index_images(annotations: list[dict[str, Any]], indices: Mapping[ImageId, int]) -> NDArray[np.int64]:
    return np.array([indices[entry["image_id"]] for entry in annotations], np.int64)


def _fill_areas(
    given: list[float | None], boxes: NDArray[np.float64], masks: list[dict[str, Any]] | None
) -> NDArray[np.float64]:
    """Return (N,) areas: those given, else those of the masks or, without masks, of the boxes."""
    is_missing = np.array([area is None for area in given], bool)
    areas = np.array([0 if area is None else area for area in given], np.float64)
    if masks is None:
        areas[is_missing] = boxes[is_missing, 2:].prod(axis=1)
    elif is_missing.any():
        areas[is_missing] = rle.measure_areas([masks[index] for index in np.flatnonzero(is_missing)])
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
    try:
        boxes = [side for entry in annotations for side in entry["bbox"]]
        areas = [entry.get("area", 0) for entry in annotations]
        if {type(value) for value in (*boxes, *areas)} - {int, float} or len(boxes) != 4 * len(annotations):
            return False
        numbers = np.array(boxes, np.float64).reshape(-1, 4)
        return bool(
            {len(entry["bbox"]) for entry in annotations} <= {4}
            and {type(entry["category_id"]) for entry in annotations} <= {int}
            and bool not in {type(entry["image_id"]) for entry in annotations}
            and np.isfinite(numbers).all()
            and ((numbers[:, 2:] >= 0) & (numbers[:, 2:] <= MAX_AREA)).all()
            and all(0 <= area <= MAX_AREA for area in areas)
            and {entry["image_id"] for entry in annotations} <= images.keys()
            and {entry["category_id"] for entry in annotations} <= categories.keys()
            and {entry.get("iscrowd", 0) for entry in annotations} <= {0, 1}
        )
    except (KeyError, TypeError, OverflowError):  # a field that is missing, of another type, or beyond all floats
        return False


def _find_fault(annotation: dict[str, Any], images: dict[ImageId, int], categories: dict[int, str]) -> str | None:
    image, category, box = (annotation.get(name) for name in ("image_id", "category_id", "bbox"))
    if not is_image_id(image):
        return "it has no image_id that is a number or a text"
    if image not in images:
        return f"the file has no image {image!r}"
    if type(category) is not int:
        return "it has no category_id of type int"
    if category not in categories:
        return f"the file has no category {category}"
    if not isinstance(box, list):
        return "it has no bbox of type list"
    if len(box) != 4 or not _are_numbers([*box, annotation.get("area", 0)]):
        return "its bbox or area does not consist of numbers"
    if not all(0 <= size <= MAX_AREA for size in (*box[2:], annotation.get("area", 0))):
        return f"its bbox or area is negative, or a side or its area is above {MAX_AREA:g}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return "its iscrowd is neither 0 nor 1"
    return None


def _encode_masks(
    annotations: list[dict[str, Any]], sizes: NDArray[np.int64]
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return each annotation's mask as compressed RLE, from polygons or run lengths; and faults by index."""
    masks: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    compressed: list[int] = []
    for index, (annotation, size) in enumerate(zip(annotations, sizes.tolist(), strict=True)):
        given = annotation.get("segmentation")
        mask: dict[str, Any] | str = "its image has no height and width, and was not predicted"
        if all(size):
            mask = _encode_polygons(given, size) if isinstance(given, list) else _encode_run_lengths(given, size)
        if isinstance(mask, str):
            faults[index] = mask
        elif isinstance(given, dict) and not isinstance(given["counts"], list):
            compressed.append(index)
        masks.append({} if isinstance(mask, str) else mask)
    wrong = _check_compressed([masks[index] for index in compressed])
    return masks, faults | {compressed[index]: fault for index, fault in wrong.items()}


def _encode_polygons(polygons: list[Any], size: list[int]) -> dict[str, Any] | str:
    from pycocotools import mask as coco_mask

    if not polygons or not all(_is_polygon(points) for points in polygons):
        return "its segmentation is not a list of polygons of at least three points"
    merged: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    return merged


def _encode_run_lengths(given: Any, size: list[int]) -> dict[str, Any] | str:
    from pycocotools import mask as coco_mask

    if not isinstance(given, dict) or not isinstance(given.get("size"), list):
        return "its segmentation is neither polygons nor run lengths of the image's size"
    if given["size"] != size:
        return f"its segmentation is not run lengths of the image's size: {given['size']}, the image's is {size}"
    counts = given.get("counts")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode(errors="replace")}
    if not isinstance(counts, list):
        return "its segmentation has no counts"
    if not _are_whole(counts) or sum(counts) != math.prod(size):
        return "its run lengths do not add up to the image's size"
    encoded: dict[str, Any] = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
    return encoded


def _check_compressed(masks: list[dict[str, Any]]) -> dict[int, str]:
    """Return faults of compressed run lengths: such make pycocotools read and write outside its memory."""
    sizes = np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2)
    is_sound = rle.check_counts([mask["counts"] for mask in masks], sizes)
    return {index: _find_rle_fault(masks[index]) for index in np.flatnonzero(~is_sound).tolist()}


def _find_rle_fault(mask: dict[str, Any]) -> str:
    try:
        rle.check(mask["counts"], mask["size"])
    except OrchError as error:
        return error.why or error.message
    return "its run lengths do not add up to the image's size"


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
