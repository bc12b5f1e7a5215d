"""From the network's small masks to full-size ones: what upstream's get_seg_masks does, in a better order.

Upstream enlarges all 100 masks, then looks which scores are above the floor; here the floor comes first. Kept masks are
enlarged a few at a time, and only their outlines are kept. Masks, and so boxes and run lengths, are the same.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from orch_runner.rle import compress, runs_of_steps
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


class Outlines(NamedTuple):
    """Masks of an image (height, width), each by where it differs from the pixel above, as runs_of_steps takes it."""

    steps: List[np.ndarray]
    size: Tuple[int, int]


def enlarge(found: Found) -> Outlines:
    """Full-size masks, of which nothing but their outlines is kept, and leaves the GPU where one is used."""
    steps: List[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, len(found.masks), AT_ONCE):
            steps += _steps(_full_size(found.masks[start : start + AT_ONCE], found) > found.threshold)
    return Outlines(steps, found.original)


def _steps(full: torch.Tensor) -> List[np.ndarray]:
    """Where (n, H, W) masks differ from the pixel above."""
    count, height, width = full.shape
    differs = torch.empty((count, height + 1, width), dtype=torch.bool, device=full.device)
    differs[:, 0], differs[:, -1] = full[:, 0], full[:, -1]
    torch.ne(full[:, 1:], full[:, :-1], out=differs[:, 1:-1])
    if full.device.type == "cpu":
        return [np.flatnonzero(one) for one in differs.numpy()]  # several times as quick as torch's
    return [one.reshape(-1).nonzero()[:, 0].cpu().numpy() for one in differs]


def _full_size(masks: torch.Tensor, found: Found) -> torch.Tensor:
    """(n, H, W) probabilities, by upstream's own two steps: to the padded input, then from its inside to the image."""
    padded = functional.interpolate(
        masks.unsqueeze(0).sigmoid(), size=found.padded, mode="bilinear", align_corners=False
    )
    inside = padded[:, :, : found.inside[0], : found.inside[1]]
    return functional.interpolate(inside, size=found.original, mode="bilinear", align_corners=False).squeeze(0)


def encode(outlines: Outlines) -> Tuple[List[Dict[str, Any]], np.ndarray]:
    """COCO run lengths of masks, and (n, 4) boxes around them with exclusive right and lower edges."""
    height, width = outlines.size
    runs = (runs_of_steps(steps, width, 0, 0, height, width) for steps in outlines.steps)
    encoded = [{"size": [height, width], "counts": compress(one, height, width)} for one in runs]
    boxes = np.asarray(coco_mask.toBbox(encoded) if encoded else [], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return encoded, boxes
