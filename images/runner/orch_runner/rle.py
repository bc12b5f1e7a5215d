"""Encode masks as COCO run lengths from their crops, without drawing the full-size mask.

Run lengths of the crop are computed with numpy and handed to pycocotools for compression: the bytes are those of
`pycocotools.mask.encode` on the full mask, at a fraction of the work for small instances in large images.
"""

from __future__ import annotations

from typing import Any, Dict, List, Union

import numpy as np
from pycocotools import mask as coco_mask

from orch_runner.predictor import CropMask, Masks


def crop_runs(crop: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """Return column-major run lengths (n,) uint32, background first, of a (h, w) bool crop of a mask."""
    if crop.ndim != 2:
        raise ValueError(f"a mask of shape {crop.shape}, expected (h, w)")
    crop_height, crop_width = crop.shape
    if x < 0 or y < 0 or x + crop_width > width or y + crop_height > height:
        raise ValueError(f"a {crop_width}x{crop_height} mask at ({x}, {y}) leaves the {width}x{height} image")
    if not crop.size:
        return np.array([height * width], np.uint32)
    # Find pixels that differ from the one above, in the crop's row-major order: much faster than reading memory
    # column by column.
    steps = np.empty((crop_height + 1, crop_width), bool)
    steps[0], steps[-1] = crop[0], crop[-1]
    np.not_equal(crop[1:], crop[:-1], out=steps[1:-1])
    return runs_of_steps(np.flatnonzero(steps), crop_width, x, y, height, width)


def runs_of_steps(steps: np.ndarray, crop_width: int, x: int, y: int, height: int, width: int) -> np.ndarray:
    """Return run lengths as `crop_runs` does, from the pixels that differ from the one above.

    `steps` are ascending row-major positions in a (h + 1, w) grid; above and below the crop is background.
    """
    rows, columns = np.divmod(steps, crop_width)
    edges = (columns + x) * height + (rows + y)
    edges.sort()
    # A run that reaches the bottom of the image continues at the top of the next column.
    joints = np.flatnonzero(edges[1:] == edges[:-1])
    if len(joints):
        edges = np.delete(edges, np.concatenate((joints, joints + 1)))
    bounds = np.empty(len(edges) + 2, edges.dtype)
    bounds[0], bounds[1:-1], bounds[-1] = 0, edges, height * width
    runs = (bounds[1:] - bounds[:-1]).astype(np.uint32)
    return runs if runs[-1] else runs[:-1]


def encode_crop(mask: CropMask, height: int, width: int) -> bytes:
    """Return the COCO compressed RLE counts of a crop inside a height x width mask."""
    return compress(crop_runs(_convert_to_bool(mask.pixels), mask.x, mask.y, height, width), height, width)


def compress(runs: np.ndarray, height: int, width: int) -> bytes:
    """Return the COCO compressed RLE counts of run lengths."""
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return bytes(encoded["counts"])


def _convert_to_bool(pixels: Any) -> np.ndarray:
    array = np.asarray(pixels)
    if array.dtype.kind not in "bui":
        raise ValueError(f"a mask of {array.dtype}, expected bool")
    return array.astype(bool, copy=False)


def encode_full(mask: np.ndarray) -> bytes:
    """Return the COCO compressed RLE counts of a full (H, W) mask, computed in its bounding box."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return encode_crop(CropMask(0, 0, np.zeros((1, 1), bool)), height, width)
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return encode_crop(CropMask(int(left), int(top), mask[top:bottom, left:right]), height, width)


def encode_mask(mask: Union[np.ndarray, CropMask, Dict[str, Any]], height: int, width: int) -> bytes:
    """Return the counts of a mask of any form in a Prediction. Raises ValueError if sizes differ."""
    if isinstance(mask, CropMask):
        return encode_crop(mask, height, width)
    if isinstance(mask, dict):
        if [int(side) for side in mask["size"]] != [height, width]:
            raise ValueError(f"a mask of size {list(mask['size'])} for an image of [{height}, {width}]")
        counts = mask["counts"]
        if isinstance(counts, (str, bytes)):
            return counts.encode("ascii") if isinstance(counts, str) else counts
        runs = [int(run) for run in counts]
        if sum(runs) != height * width or min(runs, default=0) < 0:
            raise ValueError(f"run lengths that do not add up to the image's {height * width} pixels")
        return compress(np.array(runs, np.uint32), height, width)
    pixels = _convert_to_bool(mask)
    if pixels.shape != (height, width):
        raise ValueError(f"a mask of shape {pixels.shape} for an image of ({height}, {width})")
    return encode_full(pixels)


def encode_masks(masks: Masks, order: np.ndarray, height: int, width: int) -> List[bytes]:
    """Return the counts of the masks with these indices, in their order."""
    return [encode_mask(masks[int(index)], height, width) for index in order]
