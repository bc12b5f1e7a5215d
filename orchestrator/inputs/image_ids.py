"""The ids of images: what COCO files have as such, and their order."""

from __future__ import annotations

import math

ImageId = int | float | str
"""COCO's own id of an image, or else its number from 1."""


def is_image_id(value: object) -> bool:
    """Return whether a JSON value can be an id: a text or a finite number, of any size."""
    return type(value) in (int, str) or (type(value) is float and math.isfinite(value))


def order_of_id(image_id: ImageId) -> tuple[bool, ImageId]:
    """Return the key that sorts ids: numbers by value, then texts by code points."""
    return isinstance(image_id, str), image_id
