"""Check, map, sort and encode a Prediction into one row of the standard predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np

from orch_runner.contract import RunnerJob
from orch_runner.image_file import NO_DIGEST
from orch_runner.predictor import Prediction
from orch_runner.rle import encode_masks

MAX_ERROR_LENGTH = 300
EDGE_TOLERANCE = 1e-3  # pixels


@dataclass
class ShardRow:
    """One image of a shard: its instances, or the error that made it fail (empty if none).

    `masks` is None where the predictor gave none; `sha256` is the digest of the file that was decoded.
    """

    file: str
    size: Tuple[int, int] = (0, 0)
    error: str = ""
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    masks: Optional[List[bytes]] = None
    attributes: Optional[np.ndarray] = None
    image_score: float = float("nan")
    sha256: bytes = NO_DIGEST


def make_failed_row(file: str, reason: str, size: Tuple[int, int] = (0, 0), sha256: bytes = NO_DIGEST) -> ShardRow:
    """Return the row of an image that failed; the reason becomes one line of at most MAX_ERROR_LENGTH."""
    line = " ".join(reason.split()) or "unknown error"
    return ShardRow(file, size, error=line[:MAX_ERROR_LENGTH], sha256=sha256)


def make_row(
    job: RunnerJob, file: str, size: Tuple[int, int], prediction: Prediction, sha256: bytes = NO_DIGEST
) -> ShardRow:
    """Return the standard row of a prediction on an image of `size` (height, width). Raises ValueError."""
    height, width = size
    if prediction.probability is not None and job.pixels is None:
        raise ValueError(f"the predictor gave a probability per pixel; the task {job.task} has instances instead")
    scores = np.asarray(prediction.scores, np.float32)
    if scores.ndim != 1:
        raise ValueError(f"the predictor gave scores of shape {scores.shape}, expected (n,)")
    count = len(scores)
    boxes = _check_boxes(np.asarray(prediction.boxes, np.float32), count, job.native.box_order, height, width)
    classes = _map_classes(np.asarray(prediction.classes), count, job)
    if count and not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("the predictor gave scores outside [0, 1]")
    order = _select(scores, job.score_threshold, job.max_detections)
    return ShardRow(
        file,
        size,
        boxes=boxes[order],
        classes=classes[order],
        scores=scores[order],
        masks=_encode_masks(job, prediction, count, order, height, width),
        attributes=_check_attributes(prediction, count, order, job.attributes),
        image_score=_check_image_score(prediction, job.image_scores),
        sha256=sha256,
    )


def _check_boxes(boxes: np.ndarray, count: int, order: str, height: int, width: int) -> np.ndarray:
    if boxes.shape != (count, 4) and (count or boxes.size):
        raise ValueError(f"the predictor gave boxes of shape {boxes.shape}, expected ({count}, 4)")
    boxes = boxes.reshape(count, 4)
    if order == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    if not np.isfinite(boxes).all():
        raise ValueError("the predictor gave boxes that are not finite")
    inside = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    # Smaller excesses are the model's own rounding; keeping them lets exports equal the model's own files.
    return np.where(np.abs(boxes - inside) > EDGE_TOLERANCE, inside, boxes)


def _map_classes(classes: np.ndarray, count: int, job: RunnerJob) -> np.ndarray:
    if classes.shape != (count,):
        raise ValueError(f"the predictor gave classes of shape {classes.shape}, expected ({count},)")
    table = np.array(job.native.class_map, np.int32)
    if not count:
        return np.zeros(0, np.int32)
    if not (np.isfinite(classes).all() and (classes == np.floor(classes)).all()):
        raise ValueError("the predictor gave classes that are not whole numbers")
    index = classes.astype(np.int64) - job.native.class_base
    unmapped = (index < 0) | (index >= len(table))
    if unmapped.any():
        raise ValueError(f"the predictor gave class {int(classes[unmapped][0])}, which the stack does not map")
    return np.asarray(table[index])


def _select(scores: np.ndarray, floor: Optional[float], limit: Optional[int]) -> np.ndarray:
    """Return the indices of the kept instances, best first; equal scores keep the predictor's order."""
    order = np.argsort(-scores, kind="stable")
    if floor is not None:
        order = order[scores[order] >= np.float32(floor)]
    return order if limit is None else order[:limit]


def _encode_masks(
    job: RunnerJob, prediction: Prediction, count: int, order: np.ndarray, height: int, width: int
) -> Optional[List[bytes]]:
    if prediction.masks is None or (not job.masks and not len(prediction.masks)):
        return None
    if not job.masks:
        raise ValueError(f"the predictor gave masks; the task {job.task} has none: give None, or change the task")
    if len(prediction.masks) != count:
        raise ValueError(f"the predictor gave {len(prediction.masks)} masks for {count} scores")
    return encode_masks(prediction.masks, order, height, width)


def _check_attributes(prediction: Prediction, count: int, order: np.ndarray, columns: int) -> Optional[np.ndarray]:
    if not columns:
        return None
    if not count and prediction.attributes is None:
        return np.zeros((0, columns), np.float32)
    values = np.asarray(prediction.attributes, np.float32)
    if values.shape != (count, columns):
        raise ValueError(f"the predictor gave attributes of shape {values.shape}, expected ({count}, {columns})")
    if not np.isfinite(values).all():
        raise ValueError("the predictor gave attributes that are not finite")
    return np.asarray(values[order])


def _check_image_score(prediction: Prediction, is_expected: bool) -> float:
    if not is_expected or prediction.image_score is None:
        return float("nan")
    score = float(prediction.image_score)
    if not 0 <= score <= 1:
        raise ValueError(f"the predictor gave the image score {score}, outside [0, 1]")
    return score
