"""Bring an image onto a model's square canvas, and a mask from the canvas back to the image.

`resize` is upstream's: the image is stretched to the canvas. `pad` is upstream's for images that fit: they lie in the
upper left corner, with zeros to the right and below. Upstream crops larger images; here they are first scaled down to
fit, with their aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np
from zoo import PAD, RESIZE


def size_on_canvas(height: int, width: int, canvas: int, sizing: str) -> Tuple[int, int]:
    """Return the height and width that an image has on the canvas."""
    if sizing == RESIZE:
        return canvas, canvas
    largest = max(height, width)
    if largest <= canvas:
        return height, width
    return max(1, round(height * canvas / largest)), max(1, round(width * canvas / largest))


@dataclass(frozen=True)
class Sizing:
    """The canvas and method of one model; the steps are upstream's transforms."""

    canvas: int
    sizing: str

    def __post_init__(self) -> None:
        if self.sizing not in (RESIZE, PAD):
            raise ValueError(f"sizing is {self.sizing!r}, must be {RESIZE} or {PAD}")

    def transform(self) -> Any:
        """Return upstream's transform: resizing or padding, ImageNet normalization, conversion to a tensor."""
        from IMDLBenCo.transforms import get_albu_transforms

        return get_albu_transforms(type_=self.sizing, output_size=(self.canvas, self.canvas))

    def prepare(self, transform: Any, pixels: np.ndarray) -> Any:
        """Turn (H, W, 3) uint8 pixels into the model's (3, canvas, canvas) float32 tensor."""
        height, width = pixels.shape[:2]
        if self.sizing == PAD and max(height, width) > self.canvas:
            import cv2

            height, width = size_on_canvas(height, width, self.canvas, PAD)
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        return transform(image=pixels)["image"]

    def crop(self, mask: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return the part of the model's mask (h, w) that shows an image of this size: all but the padding."""
        if self.sizing != PAD:
            return mask
        rows, columns = size_on_canvas(height, width, self.canvas, PAD)
        return mask[:rows, :columns]

    def restore(self, mask: np.ndarray, height: int, width: int) -> np.ndarray:
        """Scale the model's mask (h, w) float32 to (height, width) in [0, 1], bilinear as in upstream's script."""
        import torch

        mask = self.crop(mask, height, width)
        if mask.shape != (height, width):
            tensor = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
            grown = torch.nn.functional.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)
            mask = grown[0, 0].numpy()
        # Cat_Net's last step is bicubic and can exceed [0, 1]; upstream clamps when it writes the picture.
        return np.clip(mask, 0.0, 1.0)
