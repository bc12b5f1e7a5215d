"""From the network's small masks to full-size ones: what upstream's get_seg_masks does, in a better order.

Upstream enlarges all 100 masks, then looks which scores are above the floor; here the floor comes first. Kept masks are
enlarged a few at a time and stored the way the encoder reads them. Masks, and so boxes and run lengths, are the same.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional

AT_ONCE = 8
"""Masks enlarged together: more need more memory and are no quicker."""


class Found(NamedTuple):
    """What is kept of an image, in upstream's order: by class, then by score. `masks` are (n, h, w) logits."""

    masks: torch.Tensor
    classes: np.ndarray
    scores: np.ndarray
    attributes: np.ndarray
    threshold: float
    padded: Tuple[int, int]
    inside: Tuple[int, int]
    original: Tuple[int, int]


class Kept:
    """Takes the place of the last head's get_seg_masks: keeps what is above the floor and enlarges nothing yet."""

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
    ) -> Found:
        """(n, h, w) logits and (n,) labels and scores, best first, of one image; (n, 294) attribute scores."""
        kept = choose(labels.cpu().numpy(), scores.cpu().numpy(), self._floor)
        rows = torch.from_numpy(kept).to(masks.device)
        return Found(
            masks[rows],
            labels[rows].cpu().numpy().astype(np.int32),
            scores[rows].cpu().numpy(),
            attributes[rows].cpu().numpy(),
            float(test_cfg.mask_thr),
            (int(meta["batch_input_shape"][0]), int(meta["batch_input_shape"][1])),
            (int(meta["img_shape"][0]), int(meta["img_shape"][1])),
            (int(meta["ori_shape"][0]), int(meta["ori_shape"][1])),
        )


def choose(labels: np.ndarray, scores: np.ndarray, floor: Optional[float]) -> np.ndarray:
    """Indices of what is above the floor, grouped by label as upstream does; no floor, or 0, keeps everything."""
    kept = np.arange(len(scores)) if not floor else np.flatnonzero(scores > np.float32(floor))
    return kept[np.argsort(labels[kept], kind="stable")]


def enlarge(found: Found) -> np.ndarray:
    """(H, W, n) uint8 masks of the original image, in the column-major order the encoder reads."""
    height, width = found.original
    # A column of a mask is a row here.
    columns = np.empty((len(found.masks), width, height), np.uint8)
    with torch.no_grad():
        for start in range(0, len(columns), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            # Turned after the enlargement: interpolating turned masks rounds differently.
            full = _full_size(found.masks[part], found) > found.threshold
            columns[part] = full.transpose(1, 2).contiguous().cpu().numpy()
    return columns.transpose(2, 1, 0)


def _full_size(masks: torch.Tensor, found: Found) -> torch.Tensor:
    """(n, H, W) probabilities, by upstream's own two steps: to the padded input, then from its inside to the image."""
    padded = functional.interpolate(
        masks.unsqueeze(0).sigmoid(), size=found.padded, mode="bilinear", align_corners=False
    )
    inside = padded[:, :, : found.inside[0], : found.inside[1]]
    return functional.interpolate(inside, size=found.original, mode="bilinear", align_corners=False).squeeze(0)


def encode(masks: np.ndarray) -> Tuple[List[Dict[str, Any]], np.ndarray]:
    """COCO run lengths of (H, W, n) masks, and (n, 4) boxes around them with exclusive right and lower edges."""
    if not masks.shape[2]:
        return [], np.zeros((0, 4), np.float32)
    encoded = coco_mask.encode(masks)
    boxes = np.asarray(coco_mask.toBbox(encoded), np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return encoded, boxes
