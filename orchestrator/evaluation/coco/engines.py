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
    import hotcoco

    images = [{"id": number, "height": 0, "width": 0, "file_name": ""} for number in range(1, len(truth) + 1)]
    if iou == "segm":
        for image, size in zip(images, truth.sizes.tolist(), strict=True):
            image["height"], image["width"] = size
    _add_federation(images, truth)
    expected = hotcoco.COCO.from_arrays(
        images,
        _list_categories(truth),
        truth.image + 1,
        truth.index_categories(truth.category) + 1,
        truth.boxes,
        ids=np.arange(1, len(truth.image) + 1),
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=cast(Any, truth.masks),
    )
    category = truth.index_categories(detections.category) + 1
    columns = np.column_stack((detections.image + 1, detections.boxes, detections.scores, category)).astype(np.float64)
    masks = detections.masks() if iou == "segm" else None
    results = expected.load_res(columns, segmentation=cast(Any, masks))
    # load_res takes the boxes' areas, as pycocotools does where results have both.
    if masks and not detections.has_box_areas:
        results.update_anns(ids=np.arange(1, len(detections) + 1), area=hotcoco.mask.area(masks).astype(np.float64))
    evaluation = hotcoco.COCOeval(expected, results, iou, lvis_style=truth.federation is not None)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None
    return Curves("hotcoco", np.asarray(arrays["precision"]), np.asarray(arrays["recall"]), _limits(truth))


def _add_federation(images: list[dict[str, Any]], truth: Truth) -> None:
    """Add LVIS's lists to the engine's images, with the engine's ids of categories."""
    if truth.federation is None:
        return
    numbers = {number: n for n, number in enumerate(truth.categories, start=1)}
    for image, absent, partial in zip(images, truth.federation.absent, truth.federation.partial, strict=True):
        image[ABSENT] = [numbers[number] for number in sorted(absent & numbers.keys())]
        image[PARTIAL] = [numbers[number] for number in sorted(partial & numbers.keys())]


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
    # Ids from 1: COCOeval understands the id 0 as "matches nothing".
    sizes = truth.sizes.tolist()
    category = truth.index_categories(truth.category).tolist()
    columns = (truth.image.tolist(), category, truth.boxes.tolist(), truth.areas.tolist())
    annotations: list[dict[str, Any]] = [
        {"id": n, "image_id": image + 1, "category_id": category + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (image, category, box, area, crowd) in enumerate(zip(*columns, truth.crowd, strict=True), start=1)
    ]
    for annotation, mask in zip(annotations, truth.masks or (), strict=False):
        annotation["segmentation"] = mask
    return {
        "info": {},
        "images": [{"id": n, "height": size[0], "width": size[1]} for n, size in enumerate(sizes, start=1)],
        "categories": _list_categories(truth),
        "annotations": annotations,
    }


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
