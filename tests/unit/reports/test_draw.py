"""Pictures: the right pixels in the right colours, at any size, and never outside the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from orchestrator.reports.draw import Style, choose_colour, draw_predictions, draw_run, draw_source, make_contact_sheet
from tests.unit.predictions.predictions_samples import FILES, META, SIZES, box_mask, sample_arrays, save
from tests.unit.reports.view_samples import make_run

CATEGORIES = META["categories"]


def record(size: tuple[int, int], *instances: tuple[tuple[int, int, int, int], int, float]) -> dict[str, Any]:
    return {
        "image_size": size,
        "boxes": np.array([box for box, _, _ in instances], np.float32).reshape(-1, 4),
        "classes": np.array([category for _, category, _ in instances], np.int32),
        "scores": np.array([score for _, _, score in instances], np.float32),
        "masks": [{"size": list(size), "counts": rle.encode(box_mask(size, box))} for box, _, _ in instances],
    }


def grey(size: tuple[int, int]) -> Any:
    return np.full((*size, 3), 128, np.uint8)


def test_masks_are_translucent_and_outlined() -> None:
    image = np.asarray(draw_predictions(grey((160, 160)), record((160, 160), ((40, 60, 120, 140), 5, 0.9)), CATEGORIES))
    colour = np.array(choose_colour(5))
    np.testing.assert_array_equal(image[139, 80], colour)
    np.testing.assert_array_equal(image[100, 119], colour)  # the box's right edge is exclusive
    np.testing.assert_array_equal(image[100, 120], [128] * 3)
    np.testing.assert_allclose(image[100, 80].astype(float), 128 * 0.58 + colour * 0.42, atol=2)
    np.testing.assert_array_equal(image[20, 10], [128] * 3)


def test_instances_below_the_score_are_left_out() -> None:
    drawn = draw_predictions(grey((160, 160)), record((160, 160), ((40, 60, 120, 140), 5, 0.3)), CATEGORIES, 0.5)
    np.testing.assert_array_equal(np.asarray(drawn), grey((160, 160)))


def test_the_best_instance_is_on_top() -> None:
    instances = (((40, 60, 120, 140), 5, 0.9), ((40, 60, 120, 140), 0, 0.6))
    image = np.asarray(draw_predictions(grey((160, 160)), record((160, 160), *instances), CATEGORIES))
    np.testing.assert_array_equal(image[139, 80], choose_colour(5))


def test_the_given_pixels_stay_as_they_are() -> None:
    pixels = grey((160, 160))
    draw_predictions(pixels, record((160, 160), ((40, 60, 120, 140), 5, 0.9)), CATEGORIES)
    assert (pixels == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (160, 160), (1500, 2200)])
def test_any_size_of_image_can_be_drawn(size: tuple[int, int]) -> None:
    height, width = size
    whole = ((0, 0, width, height), 99, 1.0)  # a category that meta does not name
    image = draw_predictions(grey(size), record(size, whole, whole, whole), CATEGORIES)
    assert image.size == (width, height)
    assert (np.asarray(image) != 128).any()


def test_an_empty_mask_is_no_problem() -> None:
    image = draw_predictions(grey((50, 50)), record((50, 50), ((10, 10, 10, 10), 5, 0.9)), CATEGORIES)
    assert image.size == (50, 50)


def test_lines_and_letters_grow_with_the_image() -> None:
    small, large = Style.of(160, 160), Style.of(4000, 4000)
    assert (small.line, small.font) == (1, 10)
    assert large.line >= 8
    assert large.font >= 60


def test_neighbouring_categories_differ() -> None:
    colours = [np.array(choose_colour(category)) for category in range(46)]
    nearest = [np.abs(a - b).sum() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(nearest) > 20


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="record's image"):
        draw_predictions(grey((10, 20)), record((20, 10)), CATEGORIES)


def images_of_the_sample(folder: Path) -> Path:
    for file, size in zip(FILES, SIZES, strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1], "grey").save(folder / file)
    return folder


def run_of_the_sample(tmp_path: Path, **changes: Any) -> Predictions:
    return Predictions.load(save(sample_arrays() | changes, tmp_path / "p.npz"))


def test_a_run_becomes_one_picture_per_predicted_image(tmp_path: Path) -> None:
    root = images_of_the_sample(tmp_path / "in")
    written = draw_run(run_of_the_sample(tmp_path), root.joinpath, tmp_path / "out", min_score=0)
    expected = ["a.png", "sub/b.png", "other/b.png"]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == expected
    for path, size in zip(written, (SIZES[0], SIZES[1], SIZES[3]), strict=True):
        with Image.open(path) as image:
            assert image.size == size[::-1]
            assert len(image.getcolors(10_000) or []) > 2


@pytest.mark.parametrize("file", ["../x.jpg", "/x.jpg", "a/../../x.jpg", "a/\0.jpg", "..", ""])
def test_names_that_lead_outside_are_refused(tmp_path: Path, file: str) -> None:
    files = np.array([file + "|", *FILES[1:]])
    files = np.char.replace(files, "|", "") if file and "\0" not in file else np.array([file, *FILES[1:]])
    predictions = run_of_the_sample(tmp_path, image_file=files)
    root = images_of_the_sample(tmp_path / "in")
    with pytest.raises(PredictionsError):
        draw_run(predictions, lambda _: root / "a.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    root = images_of_the_sample(tmp_path / "in")
    with pytest.raises(PredictionsError, match="leads outside"):
        draw_run(run_of_the_sample(tmp_path), root.joinpath, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_very_long_name_is_shortened(tmp_path: Path) -> None:
    name = "n" * 251 + ".jpg"
    root = images_of_the_sample(tmp_path / "in")
    (root / "a.jpg").rename(root / name)
    predictions = run_of_the_sample(tmp_path, image_file=np.array([name, *FILES[1:]]))
    assert draw_run(predictions, root.joinpath, tmp_path / "out")[0].is_file()


def test_orientation_is_applied_as_in_the_run(tmp_path: Path) -> None:
    root = images_of_the_sample(tmp_path / "in")
    turned = Image.new("RGB", SIZES[0], "grey")  # stored with sides exchanged; orientation 6 turns it upright
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "a.jpg", exif=exif)
    predictions = run_of_the_sample(tmp_path)
    assert len(draw_run(predictions, root.joinpath, tmp_path / "out", exif=True)) == 3
    with pytest.raises(PredictionsError, match=r"a\.jpg is 40x60 now, it was 60x40"):
        draw_run(predictions, root.joinpath, tmp_path / "out", exif=False)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16", "F"])
def test_every_mode_of_image_can_be_drawn(tmp_path: Path, mode: str) -> None:
    root = images_of_the_sample(tmp_path / "in")
    Image.new(mode, SIZES[0][::-1]).save(root / "a.tif", "TIFF")
    files = np.array(["a.tif", *FILES[1:]])
    written = draw_run(run_of_the_sample(tmp_path, image_file=files), root.joinpath, tmp_path / "out")
    with Image.open(written[0]) as image:
        assert image.mode == "RGB"


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = images_of_the_sample(tmp_path / "in")
    (root / "a.jpg").write_bytes(b"no image")
    with pytest.raises(PredictionsError, match=r"cannot read the image .*a\.jpg"):
        draw_run(run_of_the_sample(tmp_path), root.joinpath, tmp_path / "out")


def test_a_sheet_holds_all_images_in_rows() -> None:
    colours = ["red", "lime", "blue"]
    sheet = make_contact_sheet(
        [Image.new("RGB", (200, 100), colour) for colour in colours], columns=2, cell=100, gap=10
    )
    assert sheet.size == (230, 130)
    pixels = np.asarray(sheet)
    assert pixels[35, 60].tolist() == [255, 0, 0]
    assert pixels[35, 170].tolist() == [0, 255, 0]
    assert pixels[95, 60].tolist() == [0, 0, 255]
    assert pixels[95, 170].tolist() == [255, 255, 255]
    assert make_contact_sheet([], columns=3).size[0] > 0


def test_meta_without_categories_still_draws(tmp_path: Path) -> None:
    root = images_of_the_sample(tmp_path / "in")
    meta = {key: value for key, value in META.items() if key != "categories"}
    predictions = run_of_the_sample(tmp_path, meta=np.array(json.dumps(meta)))
    assert len(draw_run(predictions, root.joinpath, tmp_path / "out")) == 3


def test_names_that_differ_in_their_extension_alone_stay_apart(tmp_path: Path) -> None:
    root = images_of_the_sample(tmp_path / "in")
    (root / "sub" / "b.jpg").rename(root / "a.png")
    files = np.array(["a.jpg", "a.png", *FILES[2:]])
    written = draw_run(run_of_the_sample(tmp_path, image_file=files), root.joinpath, tmp_path / "out")
    assert [path.name for path in written] == ["a.jpg.png", "a.png.png", "b.png"]


def test_a_file_is_drawn_with_its_run_or_with_a_folder_of_images(tmp_path: Path) -> None:
    run = make_run(tmp_path, sample_arrays())
    assert len(draw_source(run / "predictions.npz", tmp_path / "of-run", 0.3)) == 3
    elsewhere = (run / "predictions.npz").rename(tmp_path / "p.npz")
    with pytest.raises(UsageError, match="are not known") as caught:
        draw_source(elsewhere, tmp_path / "out", 0.3)
    assert caught.value.hint == f"orch draw {elsewhere} --image-root FOLDER"
    assert len(draw_source(elsewhere, tmp_path / "out", 0.3, tmp_path / "photos")) == 3


def test_a_label_covers_no_line_of_text_above(tmp_path: Path) -> None:
    lines = [(10.0, top, 150.0, top + 12.0) for top in (20.0, 34.0, 48.0)]
    sizes = {"image_size": (100, 300), "classes": np.zeros(3, np.int32), "scores": np.full(3, 0.9, np.float32)}
    image = draw_predictions(np.zeros((100, 300, 3), np.uint8), {**sizes, "boxes": np.array(lines)}, [], 0.5)
    pixels = np.asarray(image)
    for left, top, right, bottom in lines:
        inside = pixels[int(top) + 2 : int(bottom) - 2, int(left) + 2 : int(right) - 2]
        assert not inside.any(), top
