"""Draw seeded pictures of six garments, and write the exact mask of each into a COCO annotation file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orchestrator.workflows.demo.shapes import SHAPES, Points, Shape, Stroke
from orchestrator.workflows.demo.textures import Floats, blurred, cloth, colour, folds, surface

CATEGORIES: tuple[str, ...] = tuple(SHAPES)
PICTURE_SIZE = 320
# Odd, so that no pixel can be shared equally by two garments: masks stay disjoint.
_SUPERSAMPLE = 3
_PLACEMENT_TRIES = 12
_LEAST_INSIDE = 0.7
_LEAST_VISIBLE = 0.45


@dataclass(frozen=True)
class Instance:
    """The visible part of one garment: `mask` is (H, W) bool."""

    category: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """`pixels` is (H, W, 3) uint8 RGB; the instances' masks are disjoint, the hindmost garment first."""

    pixels: NDArray[np.uint8]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class _Garment:
    """A shape on the canvas: `left`, `top` and the size of `mask` are its crop."""

    category: str
    shape: Shape
    scale: float
    left: int
    top: int
    matrix: Points
    centre: Points
    mask: Image.Image

    def crop_points(self, points: Points) -> list[tuple[float, float]]:
        """Return points of the shape's unit box in pixels of the crop."""
        placed = points @ self.matrix.T + self.centre - (self.left, self.top)
        return [(float(x), float(y)) for x, y in placed]

    @property
    def window(self) -> tuple[slice, slice]:
        width, height = self.mask.size
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class _Canvas:
    """The supersampled picture while it is drawn, and the number of the garment of each pixel (0: none)."""

    def __init__(self, rng: np.random.Generator, side: int, backgrounds: Sequence[NDArray[np.uint8]]) -> None:
        self.rng = rng
        self.side = side
        self.light = _clutter(rng, surface(rng, side, backgrounds))
        self.owner = np.zeros((side, side), dtype=np.uint8)
        self.areas: list[int] = []
        self.categories: list[str] = []

    def add(self) -> None:
        """Draw one more garment, unless it would hide too much of the earlier ones."""
        category = CATEGORIES[int(self.rng.integers(len(CATEGORIES)))]
        shape = SHAPES[category](self.rng)
        for _ in range(_PLACEMENT_TRIES):
            garment = _transform(self.rng, category, shape, self.side)
            if garment is not None and self._leaves_others_visible(garment):
                self._paint(garment)
                return

    def _leaves_others_visible(self, garment: _Garment) -> bool:
        covered = np.bincount(self.owner[garment.window][np.asarray(garment.mask) > 0], minlength=len(self.areas) + 1)
        seen = np.bincount(self.owner.ravel(), minlength=len(self.areas) + 1)
        return all(
            seen[number] - covered[number] >= _LEAST_VISIBLE * area for number, area in enumerate(self.areas, start=1)
        )

    def _paint(self, garment: _Garment) -> None:
        inside = np.asarray(garment.mask) > 0
        self._cast_shadow(garment)
        window = self.light[garment.window]
        window[inside] = _dressed(self.rng, garment, self.side)[inside]
        self.categories.append(garment.category)
        self.areas.append(int(inside.sum()))
        self.owner[garment.window][inside] = len(self.areas)

    def _cast_shadow(self, garment: _Garment) -> None:
        strength = float(self.rng.uniform(0.0, 0.6))
        reach = float(self.rng.uniform(0.006, 0.03)) * self.side
        margin = int(4 * reach)
        left, top = max(0, garment.left - margin), max(0, garment.top - margin)
        width, height = garment.mask.size
        right = min(self.side, garment.left + width + margin)
        bottom = min(self.side, garment.top + height + margin)
        shadow = Image.new("L", (right - left, bottom - top))
        shift = int(reach)
        shadow.paste(garment.mask, (garment.left - left + shift, garment.top - top + shift))
        self.light[top:bottom, left:right] *= 1 - strength * blurred(shadow, reach)[..., None]


def draw_scene(seed: int, size: int = 160, backgrounds: Sequence[NDArray[np.uint8]] = ()) -> Scene:
    """Draw a picture of up to six garments, `size` pixels square; without photographs its surface is drawn too."""
    rng = np.random.default_rng(seed)
    canvas = _Canvas(rng, size * _SUPERSAMPLE, backgrounds)
    for _ in range(int(rng.integers(1, 7))):
        canvas.add()
    blocks = (size, _SUPERSAMPLE, size, _SUPERSAMPLE)
    instances = []
    for number, category in enumerate(canvas.categories, start=1):
        mask = (canvas.owner == number).reshape(blocks).sum(axis=(1, 3)) * 2 > _SUPERSAMPLE**2
        instances.append(Instance(category, mask))
    pixels = np.clip(canvas.light, 0, 255).reshape(*blocks, 3).mean(axis=(1, 3))
    noise = rng.uniform(0.0, 6.0) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Scene(np.clip(pixels + noise + 0.5, 0, 255).astype(np.uint8), tuple(instances))


def write_scenes(folder: Path, seeds: Sequence[int], size: int = PICTURE_SIZE) -> Path:
    """Write `scene-00000.png` … and `annotations.json` (COCO instances); return the path of the annotations."""
    from pycocotools import mask as coco_mask

    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, seed in enumerate(seeds):
        name = f"scene-{image_id:05d}.png"
        scene = draw_scene(seed, size)
        Image.fromarray(scene.pixels).save(folder / name)
        images.append({"id": image_id, "file_name": name, "height": size, "width": size})
        for instance in scene.instances:
            encoded = coco_mask.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES.index(instance.category) + 1,
                    "segmentation": {"size": [size, size], "counts": encoded["counts"].decode("ascii")},
                    "area": int(instance.mask.sum()),
                    "bbox": [float(value) for value in coco_mask.toBbox(encoded)],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, start=1)]
    path = folder / "annotations.json"
    dataset = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return path


def _transform(rng: np.random.Generator, category: str, shape: Shape, side: int) -> _Garment | None:
    """Turn, shear and scale a shape and put it on the canvas; None if too much of it would be outside."""
    scale = float(rng.uniform(0.28, 0.6)) * side
    width, height = scale * shape.aspect**0.5, scale / shape.aspect**0.5
    flip = -1 if rng.random() < 0.5 else 1
    turn = np.deg2rad(rng.uniform(-35, 35))
    shear = float(rng.uniform(-0.12, 0.12))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[width * flip, width * shear], [0.0, height]])
    centre = rng.uniform(0.14, 0.86, 2) * side
    extent = np.concatenate([shape.outline, *(handle.points for handle in shape.handles)]) @ matrix.T + centre
    pad = max((handle.width for handle in shape.handles), default=0.0) * scale
    low, high = extent.min(axis=0) - pad, extent.max(axis=0) + pad + 1
    near, far = np.clip(low, 0, side).astype(int), np.clip(np.ceil(high), 0, side).astype(int)
    if np.prod(far - near) < _LEAST_INSIDE * np.prod(high - low):
        return None
    garment = _Garment(
        category, shape, scale, int(near[0]), int(near[1]), matrix, centre,
        Image.new("L", (int(far[0] - near[0]), int(far[1] - near[1]))),
    )  # fmt: skip
    draw = ImageDraw.Draw(garment.mask)
    draw.polygon(garment.crop_points(shape.outline), fill=255)
    for handle in shape.handles:
        _stroke(draw, garment, handle, 255)
    return garment


def _stroke(draw: ImageDraw.ImageDraw, garment: _Garment, stroke: Stroke, fill: int) -> None:
    width = max(2, round(stroke.width * garment.scale))
    draw.line(garment.crop_points(stroke.points), fill=fill, width=width, joint="curve")


def _dressed(rng: np.random.Generator, garment: _Garment, side: int) -> Floats:
    """Return the garment's crop in colour: cloth, panels, seams, folds, and a darker rim."""
    width, height = garment.mask.size
    picture = cloth(rng, width, height, side)
    for panel in garment.shape.panels:
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).polygon(garment.crop_points(panel), fill=255)
        inside = np.asarray(mask) > 0
        picture[inside] = 0.85 * colour(rng, (0.0, 0.8), (0.1, 1.0)) + 0.15 * picture[inside]
    seams = Image.new("L", (width, height))
    for seam in garment.shape.seams:
        _stroke(ImageDraw.Draw(seams), garment, seam, 255)
    seam_light = 1 - float(rng.uniform(0.2, 0.55)) * blurred(seams, side / 900)
    fold_light = 1 - float(rng.uniform(0.15, 0.7)) * folds(rng, width, height)
    rim = float(rng.uniform(0.1, 0.7))
    body_light = 1 - rim + rim * np.clip(blurred(garment.mask, side / 80) * 2 - 1, 0, 1) ** 0.5
    return np.asarray(picture * (seam_light * fold_light * body_light)[..., None], dtype=np.float32)


def _clutter(rng: np.random.Generator, light: Floats) -> Floats:
    """Draw up to four things that are not garments: sticks, rings, cards and shards."""
    side = len(light)
    image = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 5))):
        red, green, blue = (int(value) for value in colour(rng, (0.0, 0.8), (0.1, 1.0)))
        fill = (red, green, blue)
        x, y = (float(value) for value in rng.uniform(0, side, 2))
        reach = float(rng.uniform(0.03, 0.14)) * side
        corners = rng.uniform(-1.6 * reach, 1.6 * reach, (3, 2)) + np.array([x, y])
        kind = int(rng.integers(0, 5))
        pen = max(1, round(side * float(rng.uniform(0.004, 0.02))))
        if kind == 0:
            far = (x + 3 * reach * np.cos(corners[0, 0]), y + 3 * reach * np.sin(corners[0, 0]))
            draw.line([(x, y), far], fill=fill, width=pen)
        elif kind == 1:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
        elif kind == 2:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=fill, width=pen)
        elif kind == 3:
            draw.rectangle((x, y, x + 2 * reach, y + 1.4 * reach), fill=fill)
        else:
            draw.polygon([(float(a), float(b)) for a, b in corners], fill=fill)
    return np.asarray(image, dtype=np.float32).copy()
