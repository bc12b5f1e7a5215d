"""A folder with every kind of image that breaks upstream scripts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UNREADABLE = {"broken/text.jpg", "broken/truncated.jpg", "broken/empty.png"}
"""Images that must end as failed, each with a reason."""
SIZES = {
    "tiny.png": (1, 1),
    "photo.jpg": (90, 120),
    "turned.jpg": (120, 90),
    "modes/grey.png": (90, 120),
    "modes/sixteen.png": (90, 120),
    "modes/cmyk.jpg": (90, 120),
    "modes/rgba.png": (90, 120),
    "modes/palette.png": (90, 120),
    "black.bmp": (90, 120),
    "wide.png": (16, 1500),
    "first/same.png": (90, 120),
    "second/same.png": (60, 80),
    "name with spaces äöü 猫.webp": (90, 120),
    "UPPER.JPG": (90, 120),
    "large.jpg": (4000, 6000),
}
"""Height and width of the others, upright."""


def photograph(width: int = 120, height: int = 90) -> NDArray[np.uint8]:
    """Something like a photograph with a bright object in it."""
    rng = np.random.default_rng(width * height)
    rows, columns = np.mgrid[:height, :width]
    base = 60 + 80 * columns / width + 40 * rows / height
    pixels = base[:, :, None] * [1.0, 0.9, 0.7] + rng.normal(0, 6, (height, width, 1))
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (250, 245, 240)
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def write_difficult_folder(folder: Path) -> None:
    """Write SIZES, UNREADABLE, and files that are no images."""
    for name in ("broken", "modes", "first", "second"):
        (folder / name).mkdir(parents=True)
    photo = Image.fromarray(photograph())
    photo.save(folder / "photo.jpg", quality=92)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=exif)
    photo.convert("L").save(folder / "modes" / "grey.png")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(folder / "modes" / "sixteen.png")
    photo.convert("CMYK").save(folder / "modes" / "cmyk.jpg")
    rgba = photo.convert("RGBA")
    rgba.putalpha(128)
    rgba.save(folder / "modes" / "rgba.png")
    photo.convert("P").save(folder / "modes" / "palette.png", transparency=0)
    Image.new("RGB", (120, 90)).save(folder / "black.bmp")
    Image.new("RGB", (1, 1), "white").save(folder / "tiny.png")
    Image.fromarray(photograph(1500, 16)).save(folder / "wide.png")
    photo.save(folder / "first" / "same.png")
    Image.fromarray(photograph(80, 60)).save(folder / "second" / "same.png")
    photo.save(folder / "name with spaces äöü 猫.webp")
    photo.save(folder / "UPPER.JPG", format="JPEG")
    photo.resize((6000, 4000)).save(folder / "large.jpg")
    _write_unreadable(folder / "broken", photo)
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")


def _write_unreadable(folder: Path, photo: Image.Image) -> None:
    (folder / "text.jpg").write_text("this is a text file")
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (folder / "empty.png").write_bytes(b"")
