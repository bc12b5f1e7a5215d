"""Pictures of predictions: masks, boxes and labels over the image, and sheets of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from orchestrator.errors import PredictionsError
from orchestrator.predictions import rle
from orchestrator.predictions.mask_files import picture_path
from orchestrator.predictions.npz import replacing
from orchestrator.predictions.predictions import Predictions, Record
from orchestrator.predictions.schema import STATUS_PREDICTED

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

FILL = 0.42  # opacity of masks
PALETTE: tuple[Colour, ...] = (
    (33, 128, 240),
    (250, 140, 10),
    (60, 190, 80),
    (230, 50, 50),
    (160, 75, 225),
    (0, 190, 215),
    (250, 215, 50),
    (240, 80, 165),
    (145, 90, 60),
    (170, 230, 20),
    (0, 130, 120),
    (55, 60, 165),
)
SHADES = ((0, 0.0), (0, 0.35), (255, 0.45), (255, 0.7))  # towards black or white, by how much
BLEND_TABLE = (np.arange(256) * (1 - FILL)).astype(np.uint8)  # what is left of a pixel under a mask
LABEL_STEPS = 6


@dataclass(frozen=True)
class Style:
    """Sizes in pixels that suit an image: what is legible at 160 pixels would vanish at 4000."""

    line: int
    font: int
    padding: int

    @classmethod
    def of(cls, width: int, height: int) -> Style:
        """The style for an image of that size."""
        side = (width * height) ** 0.5
        return cls(line=max(1, round(side / 300)), font=max(10, round(side / 42)), padding=max(1, round(side / 320)))


def colour_of(category: int) -> Colour:
    """A category's colour, the same in all pictures: twelve that differ, then their shades."""
    red, green, blue = PALETTE[category % len(PALETTE)]
    towards, share = SHADES[category // len(PALETTE) % len(SHADES)]
    return tuple(round(value + (towards - value) * share) for value in (red, green, blue))  # type: ignore[return-value]


def draw_predictions(
    pixels: NDArray[np.uint8],
    record: Record,
    categories: Sequence[Mapping[str, Any]],
    min_score: float = 0.5,
) -> Image.Image:
    """The image (H,W,3) with the record's instances of at least `min_score` drawn over it.

    `categories` are those of the predictions' meta. The best one is on top. ValueError when the pixels are
    not of the record's image size; PredictionsError when a mask is broken.
    """
    height, width = pixels.shape[:2]
    if (height, width) != tuple(record["image_size"]):
        raise ValueError(f"the pixels are {height}x{width}, the record's image is {record['image_size']}")
    style = Style.of(width, height)
    names = {category["id"]: str(category["name"]) for category in categories}
    rows = [row for row, score in enumerate(record["scores"].tolist()) if score >= min_score][::-1]
    canvas = np.array(pixels, np.uint8)
    for row in rows:
        _paint_mask(canvas, record["masks"][row], colour_of(int(record["classes"][row])), style.line)
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    for row in rows:
        _paint_box(pen, record["boxes"][row].tolist(), colour_of(int(record["classes"][row])), style, image.size)
    labels = _Labels(pen, style, image.size)
    for row in reversed(rows):  # the best ones choose their places first
        category = int(record["classes"][row])
        text = f"{names.get(category, category)} {float(record['scores'][row]):.2f}"
        labels.place(text, record["boxes"][row].tolist(), colour_of(category))
    return image


def draw_run(
    predictions: Predictions,
    find_image: Callable[[str], Path],
    folder: Path,
    min_score: float = 0.5,
    exif: bool = True,
) -> list[Path]:
    """Draw every predicted image as `folder`/<relative path>.png; returns those paths.

    `find_image` says where an image file lies; `exif` whether its EXIF orientation is applied, as in the run.
    Failed images are left out. PredictionsError when an image is not the one that was predicted, cannot be
    read, or a name points outside `folder`.
    """
    categories = predictions.meta.get("categories", [])
    written = []
    for record in predictions:
        if record["status"] != STATUS_PREDICTED:
            continue
        target = picture_path(folder, record["image_file"])
        pixels = _pixels(find_image(record["image_file"]), exif)
        if pixels.shape[:2] != tuple(record["image_size"]):
            height, width = record["image_size"]
            raise PredictionsError(
                f"{record['image_file']} is {pixels.shape[1]}x{pixels.shape[0]} now, it was {width}x{height}",
                why="the image changed, or the run treated its EXIF orientation differently",
                hint="give the images that were predicted",
            )
        image = draw_predictions(pixels, record, categories, min_score)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as stream:
            image.save(stream, "PNG")
        written.append(target)
    return written


def contact_sheet(images: Iterable[Image.Image], columns: int, cell: int = 320, gap: int = 8) -> Image.Image:
    """All images on one white sheet, `columns` a row, each scaled to fit a square of `cell` pixels."""
    thumbs = [ImageOps.contain(image.convert("RGB"), (cell, cell), Image.Resampling.LANCZOS) for image in images]
    columns = max(1, min(columns, len(thumbs)))
    rows = [thumbs[start : start + columns] for start in range(0, len(thumbs), columns)]
    heights = [max(thumb.height for thumb in row) for row in rows]
    size = (gap + columns * (cell + gap), gap + sum(height + gap for height in heights))
    sheet, top = Image.new("RGB", size, "white"), gap
    for row, height in zip(rows, heights, strict=True):
        for column, thumb in enumerate(row):
            left = gap + column * (cell + gap) + (cell - thumb.width) // 2
            sheet.paste(thumb, (left, top + (height - thumb.height) // 2))
        top += height + gap
    return sheet


def _pixels(path: Path, exif: bool) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image) if exif else image
            if turned.mode.startswith(("I", "F")):  # 16 bits a pixel: convert() would clip instead of scale
                return np.asarray(_eight_bits(np.asarray(turned)))
            return np.asarray(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PredictionsError(f"cannot read the image {path}", why=str(error), hint="give the run's images") from error


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    scaled = values.astype(np.float64) / (257 if values.max(initial=0) > 255 else 1)
    grey = np.clip(scaled, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _paint_mask(canvas: NDArray[np.uint8], mask: Mapping[str, Any], colour: Colour, line: int) -> None:
    left, top, right, bottom = rle.bbox(mask["counts"], mask["size"])
    if right == left:
        return
    inside = rle.decode(mask["counts"], mask["size"])[top:bottom, left:right]
    region = canvas[top:bottom, left:right]
    for channel, value in enumerate(colour):
        blended = BLEND_TABLE[region[:, :, channel]] + np.uint8(value * FILL)
        np.copyto(region[:, :, channel], blended, where=inside)
    region[inside & ~_shrunk(inside, line)] = colour


def _shrunk(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask without its outermost pixels; what lies beyond the array counts as outside."""
    padded = np.pad(mask, by)
    height, width = mask.shape
    rows = padded[by : by + height].copy()
    for shift in range(2 * by + 1):
        rows &= padded[shift : shift + height]
    both = rows[:, by : by + width].copy()
    for shift in range(2 * by + 1):
        both &= rows[:, shift : shift + width]
    return both


def _paint_box(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, style: Style, size: tuple[int, int]) -> None:
    # The right and lower edges are exclusive.
    left, top = min(box[0], size[0] - 1), min(box[1], size[1] - 1)
    right, bottom = max(left, box[2] - 1), max(top, box[3] - 1)
    pen.rectangle((left, top, right, bottom), outline=colour, width=style.line)


class _Labels:
    """Puts labels next to boxes, where possible not over each other."""

    def __init__(self, pen: ImageDraw.ImageDraw, style: Style, size: tuple[int, int]) -> None:
        self._pen = pen
        self._style = style
        self._size = size
        self._font = ImageFont.load_default(style.font)
        self._taken: list[Box] = []

    def place(self, text: str, box: Box, colour: Colour) -> None:
        """Draw a label at the first free place above, inside or below the box, else above it."""
        pad = self._style.padding
        left, top, right, bottom = self._font.getbbox(text)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        tops = [box[1] - height, box[1], box[3] - height, box[3]]
        tops += [box[1] + step * height for step in range(1, LABEL_STEPS)]
        places = [self._inside(x, y, width, height) for y in tops for x in (box[0], box[2] - width)]
        spot = next((place for place in places if self._free(place)), places[0])
        self._taken.append(spot)
        self._pen.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=colour)
        ink = "black" if colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114 > 140 else "white"
        self._pen.text((spot[0] + pad - left, spot[1] + pad - top), text, fill=ink, font=self._font)

    def _inside(self, x: float, y: float, width: float, height: float) -> Box:
        x = max(0.0, min(x, self._size[0] - width))
        y = max(0.0, min(y, self._size[1] - height))
        return (x, y, x + width, y + height)

    def _free(self, spot: Box) -> bool:
        return all(
            spot[2] <= other[0] or spot[0] >= other[2] or spot[3] <= other[1] or spot[1] >= other[3]
            for other in self._taken
        )
