"""Import COCO results JSON, of boxes or masks, as a predictions file: a model that ran elsewhere can be compared."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.catalog import DETECTION, INSTANCES, load_catalog
from orchestrator.errors import UsageError
from orchestrator.predictions import rle
from orchestrator.predictions.annotations import read_annotations
from orchestrator.predictions.npz import NpzWriter
from orchestrator.predictions.output_names import is_plain_path
from orchestrator.predictions.results_file import ResultsFile
from orchestrator.predictions.schema import FORMAT, SCHEMA, is_class
from orchestrator.system import __version__, sha256_of

SHOWN = 5  # ids in a note
IMPORTED = "imported"


@dataclass(frozen=True)
class Imported:
    """Counts of an imported file, and notes on what differs from what was given."""

    images: int
    instances: int
    has_masks: bool
    notes: list[str]


@dataclass(frozen=True)
class _Images:
    """The images of the annotations, in order; `index` finds them by id."""

    files: list[str]
    ids: list[Any]
    sizes: NDArray[np.int32]
    index: dict[Any, int]


def import_coco_results(results: Path, annotations: Path, target: Path, model: str) -> Imported:
    """Write the predictions file `target` from COCO results and the annotations whose images they are of.

    Every image of the annotations is one of the predictions. Boxes, also those that reach outside their image, and
    scores are kept, as float32. Results of categories that the annotations lack are left out. UsageError when a file
    is missing or not what it should be, and for results that cannot be predictions.
    """
    given = ResultsFile.read(results)
    dataset = read_annotations(annotations)
    images = _read_images(dataset, annotations)
    categories, taxonomy = _find_taxonomy(dataset, annotations)
    image = given.find_images(images.index, annotations)
    category, scores = given.categories(), given.scores()
    is_known = np.isin(category, np.array(list(categories), np.int64))
    notes = _note_categories(category[~is_known], len(category), annotations)
    # COCO's own order: by score, equal ones in the order of the file. Rounding to float32 must not change it.
    order = np.lexsort((-scores, image))
    order = order[is_known[order]]
    image, sizes = image[order], images.sizes[image[order]]
    arrays = _make_image_arrays(images, image)
    if given.has_masks:
        counts = given.masks(order, sizes)
        arrays["masks"] = np.frombuffer(b"".join(counts), np.uint8)
        arrays["mask_offsets"] = np.cumsum([0, *map(len, counts)], dtype=np.int64)
    arrays["boxes"] = given.boxes(order) if given.has_boxes else _find_boxes(counts, sizes)
    arrays["classes"], arrays["scores"] = category[order].astype(np.int32), scores[order].astype(np.float32)
    meta = _make_meta(results, annotations, model, categories, taxonomy, len(images.files))
    meta["task"] = INSTANCES if given.has_masks or not len(order) else DETECTION
    arrays["meta"] = np.array(json.dumps(meta, sort_keys=True, separators=(",", ":")))
    with NpzWriter(target, compress=True) as writer:
        for spec in SCHEMA:
            if spec.name in arrays:
                writer.write_array(spec.name, arrays[spec.name])
    notes += [*_note_images(image, len(images.files)), *_note_scores(scores[order])]
    return Imported(len(images.files), len(order), given.has_masks, notes)


def _read_images(dataset: Mapping[str, Any], path: Path) -> _Images:
    def refuse(fault: str, hint: str) -> UsageError:
        return UsageError(f"the annotations {path} cannot name the images of predictions", why=fault, hint=hint)

    entries = dataset["images"]
    files = [posixpath.normpath(entry["file_name"]) for entry in entries]  # as `orch run --images COCO.json` does
    ids = [entry["id"] for entry in entries]
    for what, values in (("file name", files), ("id", ids)):
        value, count = Counter(values).most_common(1)[0] if values else ("", 0)
        if count > 1:
            raise refuse(f"{count} images have the {what} {value!r}", "give each image its own")
    sizes = []
    for entry, file in zip(entries, files, strict=True):
        sides = [entry.get("height"), entry.get("width")]
        if not is_plain_path(file):
            raise refuse(f"the file name {file!r} is not a path below an image folder", "write relative file names")
        if not all(type(side) is int and 0 < side < 1 << 31 for side in sides) or math.prod(sides) > rle.MAX_PIXELS:
            raise refuse(f"the image {file!r} has no width and height", "add them to the annotations' images")
        sizes.append(sides)
    return _Images(files, ids, np.array(sizes, np.int32).reshape(-1, 2), {one: n for n, one in enumerate(ids)})


def _find_taxonomy(dataset: Mapping[str, Any], path: Path) -> tuple[dict[int, str], str]:
    """Return the categories, and the name of their taxonomy: that of a model of the catalog which has all of them.

    Then they are the whole taxonomy, so that the file is comparable with that model's. Else the name stands for the
    categories themselves.
    """
    categories: dict[int, str] = {}
    for entry in dataset["categories"]:
        if not is_class(entry["id"]) or entry["id"] in categories:
            why = f"the id {entry['id']} of {entry['name']!r} is not one of 32 bits, or not its own"
            raise UsageError(f"the categories of {path} cannot be used", why=why)
        categories[entry["id"]] = entry["name"]
    for model in load_catalog().models.values():
        known = {category.id: category.name for category in model.categories}
        if categories and categories.items() <= known.items():
            return known, model.spec.taxonomy
    digest = hashlib.sha256(json.dumps(sorted(categories.items())).encode()).hexdigest()
    return categories, f"categories-{digest[:12]}"


def _make_image_arrays(images: _Images, image: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return what the predictions hold per image; `image` (N,) are the instances' images, ascending."""
    count = len(images.files)
    return {
        "image_file": np.array(images.files, np.str_),
        "image_id": np.array([json.dumps(one) for one in images.ids], np.str_),
        "image_sha256": np.zeros((count, 32), np.uint8),
        "image_size": images.sizes,
        "status": np.zeros(count, np.uint8),
        "error": np.zeros(count, "U1"),
        "offsets": np.concatenate(([0], np.cumsum(np.bincount(image, minlength=count)))).astype(np.int64),
    }


def _find_boxes(counts: list[bytes], sizes: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the boxes of masks that were checked, as COCO makes them of results without boxes."""
    from pycocotools import mask as coco_mask

    masks: Any = [{"size": size, "counts": one} for one, size in zip(counts, sizes.tolist(), strict=True)]
    boxes = coco_mask.toBbox(masks).reshape(-1, 4) if masks else np.zeros((0, 4))
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1).astype(np.float32)


def _make_meta(
    results: Path, annotations: Path, model: str, categories: Mapping[int, str], taxonomy: str, count: int
) -> dict[str, Any]:
    sources = {"results": results, "annotations": annotations}
    return {
        "format": FORMAT,
        "orch_version": __version__,
        "model": model,
        **dict.fromkeys(("stack", "variant", "runtime"), IMPORTED),
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "taxonomy": taxonomy,
        "settings": {},
        **dict.fromkeys(("score_threshold", "max_detections", "exif", "image_digest")),
        "device": "unknown",
        "weights": {},
        "inputs": {"count": count, "digest": None},
        "native": {},
        IMPORTED: {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in sources.items()},
    }


def _note_categories(unknown: NDArray[np.int64], count: int, annotations: Path) -> list[str]:
    """Return a note on results of categories that the annotations lack. UsageError when no category is known."""
    if not len(unknown):
        return []
    numbers = np.unique(unknown).tolist()
    listed = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
    if len(unknown) == count:
        raise UsageError(
            f"none of the {count} results has a category of {annotations}",
            why=f"their category ids are {listed}",
            hint="give the annotations that the results were made for, or the results with their category ids",
        )
    return [
        f"{len(unknown)} of {count} results were left out: {annotations} has no category {listed}; "
        "if other numbers were meant, the other results may have wrong categories too"
    ]


def _note_images(image: NDArray[np.int64], count: int) -> list[str]:
    missing = count - len(np.unique(image))
    return (
        [f"{missing} of {count} images have no results: they count as predicted, without instances"] if missing else []
    )


def _note_scores(scores: NDArray[np.float64]) -> list[str]:
    """Return a note where rounding to float32 made different scores equal."""
    lost = len(np.unique(scores)) - len(np.unique(scores.astype(np.float32)))
    if not lost:
        return []
    return [
        f"{lost} scores became equal to others, as float32: the order of such instances in different images may differ "
        "from that in the original, and with it the last digits of figures"
    ]
