"""Enlarge the network's small masks, as upstream's get_seg_masks does, in a cheaper order.

Upstream enlarges all 100 masks, then drops those below the score floor; here the floor comes first. The kept masks are
enlarged a few at a time, and only their outlines are stored. Masks, boxes and run lengths are the same.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from orch_runner.rle import compress, runs_of_steps
from pycocotools import mask as coco_mask
from torch.nn import functional

AT_ONCE = 8
"""Masks enlarged together; more need more memory and are not faster."""


class KeptInstances(NamedTuple):
    """An image's instances above the floor, by class, then by score. `masks` are (n, h, w) logits."""

    masks: torch.Tensor
    classes: np.ndarray
    scores: np.ndarray
    attributes: np.ndarray
    threshold: float
    padded: Tuple[int, int]
    inside: Tuple[int, int]
    original: Tuple[int, int]


class KeepAboveFloor:
    """Replaces the last head's get_seg_masks: keep what is above the floor, enlarge nothing yet."""

    def __init__(self, floor: Optional[float]) -> None:
        self._floor = floor

    def __call__(
        self,
        masks: torch.Tensor,
        labels: torch.Tensor,
        scores: torch.Tensor,
        attributes: torch.Tensor,
        test_cfg: Any,
        meta: Dict[str, Any],
    ) -> KeptInstances:
        """Take (n, h, w) logits, (n,) labels and scores, best first, and (n, 294) attribute scores of one image."""
        kept = select(labels.cpu().numpy(), scores.cpu().numpy(), self._floor)
        rows = torch.from_numpy(kept).to(masks.device)
        return KeptInstances(
            masks[rows],
            labels[rows].cpu().numpy().astype(np.int32),
            scores[rows].cpu().numpy(),
            attributes[rows].cpu().numpy(),
            float(test_cfg.mask_thr),
            (int(meta["batch_input_shape"][0]), int(meta["batch_input_shape"][1])),
            (int(meta["img_shape"][0]), int(meta["img_shape"][1])),
            (int(meta["ori_shape"][0]), int(meta["ori_shape"][1])),
        )


def select(labels: np.ndarray, scores: np.ndarray, floor: Optional[float]) -> np.ndarray:
    """Return the indices above the floor, grouped by label as upstream does; no floor, or 0, keeps everything."""
    kept = np.arange(len(scores)) if not floor else np.flatnonzero(scores > np.float32(floor))
    return kept[np.argsort(labels[kept], kind="stable")]


class Outlines(NamedTuple):
    """Masks of an image of `size` (height, width), each as the `steps` argument of orch_runner.rle.runs_of_steps."""

    steps: List[np.ndarray]
    size: Tuple[int, int]


def enlarge(kept: KeptInstances) -> Outlines:
    """Enlarge the masks; return only their outlines, which are all that is copied from a GPU."""
    steps: List[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, len(kept.masks), AT_ONCE):
            steps += _find_steps(_enlarge_masks(kept.masks[start : start + AT_ONCE], kept) > kept.threshold)
    return Outlines(steps, kept.original)


def _find_steps(full: torch.Tensor) -> List[np.ndarray]:
    """Return where each of (n, H, W) masks differs from the pixel above."""
    count, height, width = full.shape
    differs = torch.empty((count, height + 1, width), dtype=torch.bool, device=full.device)
    differs[:, 0], differs[:, -1] = full[:, 0], full[:, -1]
    torch.ne(full[:, 1:], full[:, :-1], out=differs[:, 1:-1])
    if full.device.type == "cpu":
        return [np.flatnonzero(mask) for mask in differs.numpy()]  # several times faster than torch's
    return [mask.reshape(-1).nonzero()[:, 0].cpu().numpy() for mask in differs]


def _enlarge_masks(masks: torch.Tensor, kept: KeptInstances) -> torch.Tensor:
    """Return (n, H, W) probabilities by upstream's two steps: to the padded input, then its inside to the image."""
    padded = functional.interpolate(
        masks.unsqueeze(0).sigmoid(), size=kept.padded, mode="bilinear", align_corners=False
    )
    inside = padded[:, :, : kept.inside[0], : kept.inside[1]]
    return functional.interpolate(inside, size=kept.original, mode="bilinear", align_corners=False).squeeze(0)


def encode(outlines: Outlines) -> Tuple[List[Dict[str, Any]], np.ndarray]:
    """Return COCO run lengths of masks, and (n, 4) boxes around them with exclusive right and lower edges."""
    height, width = outlines.size
    runs = (runs_of_steps(steps, width, 0, 0, height, width) for steps in outlines.steps)
    encoded = [{"size": [height, width], "counts": compress(counts, height, width)} for counts in runs]
    boxes = np.asarray(coco_mask.toBbox(encoded) if encoded else [], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return encoded, boxes
