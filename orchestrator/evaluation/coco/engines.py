"""The engines for COCO's precision and recall: hotcoco (fast) and pycocotools (the reference)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import MachineError
from orchestrator.evaluation.coco.detections import Detections
from orchestrator.evaluation.coco.federated import ABSENT, MAX_PER_IMAGE, PARTIAL
from orchestrator.evaluation.coco.ground_truth import Iou, Truth
from orchestrator.system import unknown_name

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")  # up to 32², from 32² to 96², from 96² square pixels
MAX_DETECTIONS = (1, 10, 100)
AUTO = "auto"
IMAGES_AT_A_TIME = 500
ONE_PIXEL = {"size": [1, 1], "counts": b"1"}


@dataclass(frozen=True)
class Curves:
    """The arrays of COCOeval.accumulate; -1 where nothing is annotated.

    `precision` (T,R,K,A,M): THRESHOLDS, RECALLS, categories in ascending order of id, AREAS, `max_detections`.
    `recall` (T,K,A,M).
    """

    engine: str
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    max_detections: tuple[int, ...] = MAX_DETECTIONS


Engine = Callable[[Truth, Detections, Iou], Curves]


def compute_curves(truth: Truth, detections: Detections, iou: Iou, engine: str = AUTO) -> tuple[Curves, str | None]:
    """Compute precision and recall with the named engine, or with AUTO by the first that works here.

    Also return a note that says why AUTO did not use hotcoco, if so. UsageError for an unknown engine, MachineError
    when the named one is not installed.
    """
    if engine != AUTO:
        try:
            return get_engine(engine)(truth, detections, iou), None
        except ImportError as error:
            raise MachineError(f"{engine} is not installed", why=str(error), hint=f"pip install {engine}") from error
    try:
        return _run_hotcoco(truth, detections, iou), None
    except Exception as error:  # hotcoco is young: where it fails in any way, the reference takes over
        why = "it is not installed" if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        return _run_pycocotools(truth, detections, iou), f"pycocotools computed this, not hotcoco: {why}"


def _run_hotcoco(truth: Truth, detections: Detections, iou: Iou) -> Curves:
    """Hand over some images at a time: the engine keeps only their matches, no masks."""
    import hotcoco

    evaluator = hotcoco.StreamingEval(_list_categories(truth), iou, lvis_style=truth.federation is not None)
    annotations, found = _group_by_image(truth.image, len(truth)), _group_by_image(detections.image, len(truth))
    for start in range(0, len(truth), IMAGES_AT_A_TIME):
        images = range(start, min(start + IMAGES_AT_A_TIME, len(truth)))
        indices, part = annotations(images), detections.select(found(images))
        category = truth.index_categories(part.category)
        columns = np.column_stack((part.image + 1, part.boxes, part.scores, category + 1)).astype(np.float64)
        masks = None
        if iou == "segm":
            if not detections.has_box_areas:
                # The engine takes boxes' areas, so these boxes have the areas of the masks.
                columns[:, 3], columns[:, 4] = part.predictions.mask_areas[part.row], 1
            is_annotated = np.zeros((len(images), len(truth.categories)), bool)
            is_annotated[truth.image[indices] - start, truth.index_categories(truth.category[indices])] = True
            masks = _list_masks(part, is_annotated[part.image - start, category])
        listed = _list_images(truth, images)
        _add_federation(listed, truth, start)
        evaluator.update(listed, _list_annotations(truth, indices), columns, segmentation=cast(Any, masks))
    evaluation = evaluator.finalize()
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None
    return Curves("hotcoco", np.asarray(arrays["precision"]), np.asarray(arrays["recall"]), _limits(truth))


def _group_by_image(image: NDArray[np.int64], count: int) -> Callable[[range], NDArray[np.int64]]:
    """Return a function of images that returns the indices in `image` of those, in order of image, then of index."""
    order = np.argsort(image, kind="stable")
    offsets = np.searchsorted(image[order], np.arange(count + 1))
    return lambda images: order[offsets[images.start] : offsets[images.stop]]


def _list_masks(detections: Detections, is_compared: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the masks of detections that are compared with annotations, and one pixel for each of the others."""
    masks = [ONE_PIXEL] * len(detections)
    compared = np.flatnonzero(is_compared)
    for index, mask in zip(compared.tolist(), detections.masks(compared), strict=True):
        masks[index] = mask
    return masks


def _add_federation(images: list[dict[str, Any]], truth: Truth, start: int) -> None:
    """Add LVIS's lists to the engine's images, of which the first has the index `start`, with the engine's ids."""
    if truth.federation is None:
        return
    numbers = {number: n for n, number in enumerate(truth.categories, start=1)}
    for index, image in enumerate(images, start):
        image[ABSENT] = [numbers[number] for number in sorted(truth.federation.absent[index] & numbers.keys())]
        image[PARTIAL] = [numbers[number] for number in sorted(truth.federation.partial[index] & numbers.keys())]


def _limits(truth: Truth) -> tuple[int, ...]:
    return MAX_DETECTIONS if truth.federation is None else (MAX_PER_IMAGE,)


def _run_pycocotools(truth: Truth, detections: Detections, iou: Iou) -> Curves:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = cast(Any, _dataset(truth))
        expected.createIndex()
        results = _results(truth, detections, iou)
        given = expected.loadRes(cast(Any, results)) if results else COCO()
        if detections.has_box_areas and results:
            for annotation, (_, _, width, height) in zip(
                given.dataset["annotations"], detections.boxes.tolist(), strict=True
            ):
                annotation["area"] = width * height
        evaluation = COCOeval(expected, given, iou)
        evaluation.params.maxDets = list(_limits(truth))
        evaluation.evaluate()
        if truth.federation is not None:
            _ignore_unmatched(evaluation.evalImgs, truth)
        evaluation.accumulate()
    return Curves("pycocotools", evaluation.eval["precision"], evaluation.eval["recall"], _limits(truth))


def _ignore_unmatched(results: list[dict[str, Any] | None], truth: Truth) -> None:
    """Ignore wrong detections in COCOeval's results where annotations may be missing."""
    present = [result for result in results if result is not None]
    image = np.array([result["image_id"] for result in present], np.int64) - 1
    category = np.array([result["category_id"] for result in present], np.int64) - 1
    ids = np.array(list(truth.categories), np.int64)
    for result, is_partial in zip(present, truth.are_partial(image, ids[category]).tolist(), strict=True):
        if is_partial:
            result["dtIgnore"] = np.logical_or(result["dtIgnore"], result["dtMatches"] == 0)


def _dataset(truth: Truth) -> dict[str, Any]:
    return {
        "info": {},
        "images": _list_images(truth, range(len(truth))),
        "categories": _list_categories(truth),
        "annotations": _list_annotations(truth, np.arange(len(truth.image))),
    }


def _list_images(truth: Truth, images: range) -> list[dict[str, Any]]:
    """Return some images, given by their indices, with ids from 1."""
    sizes = truth.sizes[images.start : images.stop].tolist()
    return [
        {"id": index + 1, "height": height, "width": width, "file_name": ""}
        for index, (height, width) in zip(images, sizes, strict=True)
    ]


def _list_annotations(truth: Truth, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return some annotations. Their ids are from 1: COCOeval understands the id 0 as "matches nothing"."""
    category = truth.index_categories(truth.category[indices])
    columns = (
        indices,
        truth.image[indices],
        category,
        truth.boxes[indices],
        truth.areas[indices],
        truth.crowd[indices],
    )
    annotations: list[dict[str, Any]] = [
        {
            "id": index + 1,
            "image_id": image + 1,
            "category_id": kind + 1,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for index, image, kind, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
    ]
    if truth.masks is not None:
        for annotation in annotations:
            annotation["segmentation"] = truth.masks[annotation["id"] - 1]
    return annotations


def _list_categories(truth: Truth) -> list[dict[str, Any]]:
    """Return the categories with ids from 1, in ascending order of their own: hotcoco takes no negative ones."""
    return [{"id": n, "name": name} for n, name in enumerate(truth.categories.values(), start=1)]


def _results(truth: Truth, detections: Detections, iou: Iou) -> list[dict[str, Any]]:
    """Return COCO results with boxes or masks.

    Never with both: loadRes would use the boxes' areas for the masks.
    """
    category = truth.index_categories(detections.category).tolist()
    columns = zip(detections.image.tolist(), category, detections.scores.tolist(), strict=True)
    key, shapes = ("segmentation", detections.masks()) if iou == "segm" else ("bbox", detections.boxes.tolist())
    return [
        {"image_id": image + 1, "category_id": category + 1, "score": score, key: shape}
        for (image, category, score), shape in zip(columns, shapes, strict=True)
    ]


ENGINES: dict[str, Engine] = {"hotcoco": _run_hotcoco, "pycocotools": _run_pycocotools}


def get_engine(name: str) -> Engine:
    """Return the engine of that name. Raises UsageError."""
    if name not in ENGINES:
        raise unknown_name("engine", name, [AUTO, *ENGINES])
    return ENGINES[name]
