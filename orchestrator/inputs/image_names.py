"""The file names of the images of a COCO annotation file."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit


def name_image(image: Any) -> Any:
    """Return an image's `file_name`; LVIS's images have only a `coco_url`, of which it is folder and file.

    Raises KeyError or TypeError where there is neither.
    """
    if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
        return "/".join(urlsplit(image["coco_url"]).path.split("/")[-2:])
    return image["file_name"]
