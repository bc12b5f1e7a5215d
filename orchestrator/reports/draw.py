"""Draw masks, boxes and labels into images, the images of a run, and sheets of several images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation import open_runs
from orchestrator.paths import RunPaths
from orchestrator.predictions import STATUS_PREDICTED, Predictions, Record, assign_paths, rle
from orchestrator.reports.image_files import make_finder, require_image_root
from orchestrator.system import replace_file

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
BLEND_TABLE = (np.arange(256) * (1 - FILL)).astype(np.uint8)  # brightness of a pixel under a mask
LABEL_STEPS = 6


@dataclass(frozen=True)
class Style:
    """Sizes of lines and text in pixels, in proportion to the image."""

    line: int
    font: int
    padding: int

    @classmethod
    def of(cls, width: int, height: int) -> Style:
        side = (width * height) ** 0.5
        return cls(line=max(1, round(side / 300)), font=max(10, round(side / 42)), padding=max(1, round(side / 320)))


def choose_colour(category: int) -> Colour:
    """Return a category's colour, the same in all pictures: one of twelve, then of their shades."""
    red, green, blue = PALETTE[category % len(PALETTE)]
    towards, share = SHADES[category // len(PALETTE) % len(SHADES)]
    return tuple(round(value + (towards - value) * share) for value in (red, green, blue))  # type: ignore[return-value]


def draw_predictions(
    pixels: NDArray[np.uint8], record: Record, categories: Sequence[Mapping[str, Any]], min_score: float = 0.5
) -> Image.Image:
    """Draw the record's instances of at least `min_score` over the image (H,W,3), the best one on top.

    `categories` are those of the predictions' meta. ValueError when the pixels are not of the record's image size;
    PredictionsError when a mask is broken.
    """
    height, width = pixels.shape[:2]
    if (height, width) != tuple(record["image_size"]):
        raise ValueError(f"the pixels are {height}x{width}, the record's image is {record['image_size']}")
    style = Style.of(width, height)
    names = {category["id"]: str(category["name"]) for category in categories}
    rows = [row for row, score in enumerate(record["scores"].tolist()) if score >= min_score][::-1]
    canvas = np.array(pixels, np.uint8)
    for row in rows:
        if "masks" in record:
            _paint_mask(canvas, record["masks"][row], choose_colour(int(record["classes"][row])), style.line)
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    for row in rows:
        _paint_box(pen, record["boxes"][row].tolist(), choose_colour(int(record["classes"][row])), style, image.size)
    labels = _Labels(pen, style, image.size, [tuple(record["boxes"][row].tolist()) for row in rows])
    for row in reversed(rows):  # labels of the best instances are positioned first
        category = int(record["classes"][row])
        text = f"{names.get(category, category)} {float(record['scores'][row]):.2f}"
        labels.add(text, record["boxes"][row].tolist(), choose_colour(category))
    return image


def draw_run(
    predictions: Predictions, find_image: Callable[[str], Path], folder: Path, min_score: float = 0.5, exif: bool = True
) -> list[Path]:
    """Draw every predicted image as `folder`/<relative path>, ending in .png; return those paths.

    `find_image` returns the file of an image by its name; `exif` applies its EXIF orientation, as the run did.
    Failed images are skipped. PredictionsError when an image is not the one that was predicted, cannot be
    read, or a name points outside `folder`.
    """
    categories = predictions.meta.get("categories", [])
    written = []
    for record, target in zip(predictions, assign_paths(folder, predictions.files, ".png"), strict=True):
        if record["status"] != STATUS_PREDICTED:
            continue
        pixels = _read_pixels(find_image(record["image_file"]), exif)
        if pixels.shape[:2] != tuple(record["image_size"]):
            height, width = record["image_size"]
            raise PredictionsError(
                f"{record['image_file']} is {pixels.shape[1]}x{pixels.shape[0]} now, it was {width}x{height}",
                why="the image changed, or the run treated its EXIF orientation differently",
                hint="give the images that were predicted",
            )
        image = draw_predictions(pixels, record, categories, min_score)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as stream:
            image.save(stream, "PNG")
        written.append(target)
    return written


def draw_source(source: Path, folder: Path, min_score: float, image_root: Path | None = None) -> list[Path]:
    """Draw all predicted images of a run directory, or of a predictions file, into `folder`; return the pictures.

    The images are below `image_root`, or where the run recorded them: that of the directory, or of the file's folder.
    UsageError if the run is incomplete or its images are not known.
    """
    require_image_root(image_root)
    run_folder = source if source.is_dir() else source.parent
    is_of_run = RunPaths(run_folder).predictions.is_file() and RunPaths(run_folder).run_json.is_file()
    if source.is_dir() and not is_of_run and image_root is None:
        raise UsageError(f"{source} is not a complete run directory", hint="orch run --model MODEL --images FOLDER")
    is_predictions_of_run = is_of_run and source.name == RunPaths(run_folder).predictions.name
    (run,) = open_runs([run_folder if is_predictions_of_run else source])
    find_image = make_finder(run, image_root)
    if find_image is None:
        why = "it is not in the directory of its run"
        raise UsageError(
            f"the images of {source} are not known", why=why, hint=f"orch draw {source} --image-root FOLDER"
        )
    return draw_run(run.predictions, find_image, folder, min_score, run.predictions.meta.get("exif") != "ignore")


def make_contact_sheet(images: Iterable[Image.Image], columns: int, cell: int = 320, gap: int = 8) -> Image.Image:
    """Put all images on one white sheet, `columns` in a row, each scaled to fit a square of `cell` pixels."""
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


def _read_pixels(path: Path, exif: bool) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(to_rgb(ImageOps.exif_transpose(image) if exif else image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PredictionsError(f"cannot read the image {path}", why=str(error), hint="give the run's images") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; 16 bits per pixel are scaled, which PIL's convert() would clip."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image).astype(np.float64)
    scaled = values / (257 if values.max(initial=0) > 255 else 1)
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).convert("RGB")


def _paint_mask(canvas: NDArray[np.uint8], mask: Mapping[str, Any], colour: Colour, line: int) -> None:
    left, top, right, bottom = rle.find_box(mask["counts"], mask["size"])
    if right == left:
        return
    inside = rle.decode(mask["counts"], mask["size"])[top:bottom, left:right]
    region = canvas[top:bottom, left:right]
    for channel, value in enumerate(colour):
        blended = BLEND_TABLE[region[:, :, channel]] + np.uint8(value * FILL)
        np.copyto(region[:, :, channel], blended, where=inside)
    region[inside & ~_shrink(inside, line)] = colour


def _shrink(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Return the mask without its outermost pixels; everything beyond the array is outside."""
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
    """Draws labels next to boxes, where possible neither over labels nor over what is in other boxes."""

    def __init__(self, pen: ImageDraw.ImageDraw, style: Style, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        self._pen = pen
        self._style = style
        self._size = size
        self._font = ImageFont.load_default(style.font)
        self._boxes = boxes
        self._taken: list[Box] = []

    def add(self, text: str, box: Box, colour: Colour) -> None:
        """Draw a label at the first free position above, inside, below or beside the box, else above it."""
        pad = self._style.padding
        left, top, right, bottom = self._font.getbbox(text)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        tops = [box[1] - height, box[1], box[3] - height, box[3]]
        tops += [box[1] + step * height for step in range(1, LABEL_STEPS)]
        candidates = [self._move_inside(x, y, width, height) for y in tops for x in (box[0], box[2] - width)]
        beside = [self._move_inside(x, box[1], width, height) for x in (box[2], box[0] - width)]
        # In a line of text a label would cover what the box is about.
        place = 2 if box[3] - box[1] < 2 * height else len(candidates)
        candidates[place:place] = beside
        free = [candidate for candidate in candidates if not _touches(candidate, self._taken)]
        others = [other for other in self._boxes if other != tuple(box)]
        clear = (candidate for candidate in free if not _touches(candidate, others))
        area = next(clear, free[0] if free else candidates[0])
        self._taken.append(area)
        self._pen.rectangle((area[0], area[1], area[2] - 1, area[3] - 1), fill=colour)
        ink = "black" if colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114 > 140 else "white"
        self._pen.text((area[0] + pad - left, area[1] + pad - top), text, fill=ink, font=self._font)

    def _move_inside(self, x: float, y: float, width: float, height: float) -> Box:
        x = max(0.0, min(x, self._size[0] - width))
        y = max(0.0, min(y, self._size[1] - height))
        return (x, y, x + width, y + height)


def _touches(area: Box, others: Iterable[Box]) -> bool:
    return any(
        area[0] < other[2] and area[2] > other[0] and area[1] < other[3] and area[3] > other[1] for other in others
    )
