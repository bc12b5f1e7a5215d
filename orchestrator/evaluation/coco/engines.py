"""The two programs that compute COCO's precision and recall: hotcoco, fast, and pycocotools, the reference."""

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
from orchestrator.evaluation.coco.ground_truth import Iou, Truth
from orchestrator.system.suggestions import unknown_name

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")  # below 32², up to 96², above, in square pixels
MAX_DETECTIONS = (1, 10, 100)
AUTO = "auto"


@dataclass(frozen=True)
class Curves:
    """What COCO's accumulate gives; -1 where nothing is annotated.

    `precision` (T,R,K,A,M): THRESHOLDS, RECALLS, categories in ascending order of id, AREAS, MAX_DETECTIONS.
    `recall` (T,K,A,M).
    """

    engine: str
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def curves(truth: Truth, found: Detections, iou: Iou, engine: str = AUTO) -> tuple[Curves, str | None]:
    """Precision and recall by an engine of ENGINES, or with "auto" by the first that works here.

    Also says why another than the first was taken, if so. Raises UsageError for an unknown engine, MachineError when
    the one asked for is not installed.
    """
    if engine != AUTO and engine not in ENGINES:
        raise unknown_name("engine", engine, [AUTO, *ENGINES])
    if engine != AUTO:
        return _asked_for(engine, truth, found, iou), None
    try:
        return ENGINES["hotcoco"](truth, found, iou), None
    except Exception as error:  # it is young: whatever it stumbles over, the reference can do
        why = "it is not installed" if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        return ENGINES["pycocotools"](truth, found, iou), f"pycocotools computed this, not hotcoco: {why}"


def _asked_for(engine: str, truth: Truth, found: Detections, iou: Iou) -> Curves:
    try:
        return ENGINES[engine](truth, found, iou)
    except ImportError as error:
        raise MachineError(f"{engine} is not installed", why=str(error), hint=f"pip install {engine}") from error


def _hotcoco(truth: Truth, found: Detections, iou: Iou) -> Curves:
    import hotcoco

    images = [{"id": number, "height": 0, "width": 0, "file_name": ""} for number in range(1, len(truth) + 1)]
    if iou == "segm":
        for image, size in zip(images, truth.sizes.tolist(), strict=True):
            image["height"], image["width"] = size
    expected = hotcoco.COCO.from_arrays(
        images,
        [{"id": number, "name": name} for number, name in truth.categories.items()],
        truth.image + 1,
        truth.category,
        truth.boxes,
        ids=np.arange(1, len(truth.image) + 1),
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=cast(Any, truth.masks),
    )
    columns = np.column_stack((found.image + 1, found.boxes, found.scores, found.category)).astype(np.float64)
    masks = found.masks() if iou == "segm" else None
    results = expected.load_res(columns, segmentation=cast(Any, masks))
    if masks:  # load_res takes the boxes' areas, as pycocotools does where results have both
        results.update_anns(ids=np.arange(1, len(found) + 1), area=hotcoco.mask.area(masks).astype(np.float64))
    evaluation = hotcoco.COCOeval(expected, results, iou)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None
    return Curves("hotcoco", np.asarray(arrays["precision"]), np.asarray(arrays["recall"]))


def _pycocotools(truth: Truth, found: Detections, iou: Iou) -> Curves:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = cast(Any, _dataset(truth))
        expected.createIndex()
        results = _results(found, iou)
        given = expected.loadRes(cast(Any, results)) if results else COCO()
        evaluation = COCOeval(expected, given, iou)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves("pycocotools", evaluation.eval["precision"], evaluation.eval["recall"])


def _dataset(truth: Truth) -> dict[str, Any]:
    # Ids from 1: COCOeval takes the id 0 for "matches nothing".
    sizes = truth.sizes.tolist()
    columns = (truth.image.tolist(), truth.category.tolist(), truth.boxes.tolist(), truth.areas.tolist())
    annotations: list[dict[str, Any]] = [
        {"id": n, "image_id": image + 1, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for n, (image, category, box, area, crowd) in enumerate(zip(*columns, truth.crowd, strict=True), start=1)
    ]
    for annotation, mask in zip(annotations, truth.masks or (), strict=False):
        annotation["segmentation"] = mask
    return {
        "info": {},
        "images": [{"id": n, "height": size[0], "width": size[1]} for n, size in enumerate(sizes, start=1)],
        "categories": [{"id": number, "name": name} for number, name in truth.categories.items()],
        "annotations": annotations,
    }


def _results(found: Detections, iou: Iou) -> list[dict[str, Any]]:
    """COCO results with boxes or masks, never both: with boxes there, loadRes would take their areas for the masks'."""
    columns = zip(found.image.tolist(), found.category.tolist(), found.scores.tolist(), strict=True)
    key, shapes = ("segmentation", found.masks()) if iou == "segm" else ("bbox", found.boxes.tolist())
    return [
        {"image_id": image + 1, "category_id": category, "score": score, key: shape}
        for (image, category, score), shape in zip(columns, shapes, strict=True)
    ]


ENGINES: dict[str, Callable[[Truth, Detections, Iou], Curves]] = {"hotcoco": _hotcoco, "pycocotools": _pycocotools}
