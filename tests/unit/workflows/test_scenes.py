"""The drawn scenes: the same for one seed, true to the pixel, readable by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from orchestrator.workflows.demo.scenes import CATEGORIES, PICTURE_SIZE, draw_scene, write_scenes

SEEDS = range(1_000_000, 1_000_006)


def test_one_seed_gives_one_scene() -> None:
    first, second, other = draw_scene(7, 64), draw_scene(7, 64), draw_scene(8, 64)
    assert np.array_equal(first.pixels, second.pixels)
    assert [instance.category for instance in first.instances] == [i.category for i in second.instances]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.instances, second.instances, strict=True))
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("size", [48, 97])
def test_masks_are_disjoint_and_of_the_pictures_size(size: int) -> None:
    for seed in SEEDS:
        scene = draw_scene(seed, size)
        assert scene.pixels.shape == (size, size, 3)
        assert scene.pixels.dtype == np.uint8
        assert 1 <= len(scene.instances) <= 6
        owners = np.zeros((size, size), dtype=int)
        for instance in scene.instances:
            assert instance.category in CATEGORIES
            assert instance.mask.shape == (size, size)
            assert instance.mask.dtype == np.bool_
            assert instance.mask.any()
            owners += instance.mask
        assert owners.max() == 1


def test_every_category_is_drawn() -> None:
    drawn = {instance.category for seed in range(24) for instance in draw_scene(seed, 32).instances}
    assert drawn == set(CATEGORIES)


def test_garments_change_the_pixels_they_own() -> None:
    """The truth lies where the paint lies: a scene differs from its own surface mostly inside its masks."""
    scene = draw_scene(3, 96)
    covered = np.any([instance.mask for instance in scene.instances], axis=0)
    inside, outside = scene.pixels[covered].mean(axis=0), scene.pixels[~covered].mean(axis=0)
    assert np.abs(inside - outside).max() > 5


def test_photographs_serve_as_surfaces() -> None:
    red = np.zeros((40, 60, 3), dtype=np.uint8)
    red[..., 0] = 200
    on_red = [draw_scene(seed, 32, [red]).pixels.reshape(-1, 3).mean(axis=0) for seed in range(12)]
    assert any(mean[0] > 3 * max(mean[1], mean[2], 1) for mean in on_red)


def test_written_scenes_are_a_coco_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_scenes(tmp_path / "scenes", list(SEEDS)[:3], size=80)
    assert path == tmp_path / "scenes" / "annotations.json"
    dataset = COCO(str(path))
    capsys.readouterr()
    assert [category["name"] for category in dataset.loadCats(sorted(dataset.cats))] == list(CATEGORIES)
    assert sorted(dataset.cats) == [1, 2, 3, 4, 5, 6]
    for image_id, seed in enumerate(list(SEEDS)[:3]):
        record = dataset.loadImgs([image_id])[0]
        assert record["file_name"] == f"scene-{image_id:05d}.png"
        scene = draw_scene(seed, 80)
        stored = np.asarray(Image.open(path.parent / record["file_name"]))
        assert np.array_equal(stored, scene.pixels)
        annotations = dataset.loadAnns(dataset.getAnnIds([image_id]))
        assert len(annotations) == len(scene.instances)
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            assert dataset.cats[annotation["category_id"]]["name"] == instance.category
            expected = coco_mask.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
            assert dataset.annToRLE(annotation)["counts"] == expected["counts"].decode("ascii")
            assert annotation["area"] == instance.mask.sum() == coco_mask.area(annotation["segmentation"])
            assert annotation["bbox"] == list(coco_mask.toBbox(annotation["segmentation"]))
            assert annotation["iscrowd"] == 0


def test_written_scenes_repeat_byte_for_byte(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        write_scenes(tmp_path / folder, [5, 6], size=48)
    for name in ("scene-00000.png", "scene-00001.png", "annotations.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_default_size_is_the_demos(tmp_path: Path) -> None:
    path = write_scenes(tmp_path, [1_000_000])
    image = json.loads(path.read_text(encoding="utf-8"))["images"][0]
    assert (image["height"], image["width"]) == (PICTURE_SIZE, PICTURE_SIZE)
