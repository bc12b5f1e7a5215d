"""True masks as public data sets draw them, and those that can be meant in several ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orchestrator.cli import main
from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.localization.evaluate import evaluate_masks
from orchestrator.evaluation.localization.mask_file import read_true_mask
from tests.unit.predictions.predictions_samples import META, digests, save

SIZE = (40, 60)
Captured = pytest.CaptureFixture[str]
INSIDE = np.zeros(SIZE, bool)
INSIDE[8:28, 10:40] = True


def draw(path: Path, pixels: NDArray[Any], **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def grey(inside: int, outside: int = 0, kind: Any = np.uint8) -> NDArray[Any]:
    return np.where(INSIDE, inside, outside).astype(kind)


def colours(inside: tuple[int, ...], outside: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.where(INSIDE[..., None], inside, outside).astype(np.uint8)


CLEAR: dict[str, tuple[NDArray[Any], str]] = {
    "black and white": (grey(255), "a.png"),
    "as JPEG": (grey(255), "a.jpg"),
    "zeros and ones": (grey(1), "a.png"),
    "one bit": (INSIDE, "a.png"),
    "one faint level": (grey(100), "a.png"),
    "soft edges": (grey(255, 3), "a.png"),
    "16 bits": (grey(65535, kind=np.uint16), "a.png"),
    "255 in 16 bits": (grey(255, kind=np.uint16), "a.png"),
    "soft edges in 16 bits": (np.maximum(grey(255, kind=np.uint16), np.eye(*SIZE, dtype=np.uint16) * 30), "a.png"),
    "1 in 16 bits": (grey(1, kind=np.uint16), "a.png"),
    "32 bits": (grey(255, kind=np.int32), "a.tif"),
    "fractions": (np.where(INSIDE, 0.75, 0.1).astype(np.float32), "a.tif"),
    "one as a fraction": (grey(1, kind=np.float32), "a.tif"),
    "RGB of grey": (colours((255, 255, 255), (0, 0, 0)), "a.png"),
    "one colour on black": (colours((128, 0, 0), (0, 0, 0)), "a.png"),
    "white, opaque": (colours((255, 255, 255, 255), (0, 0, 0, 255)), "a.png"),
    "white on transparent black": (colours((255, 255, 255, 255), (0, 0, 0, 0)), "a.png"),
    "Columbia": (colours((0, 200, 0), (200, 0, 0)), "canong3_02_sub_01_edgemask.png"),
    "Columbia as JPEG": (colours((0, 255, 0), (255, 0, 0)), "canong3_02_sub_01_edgemask.jpg"),
}


@pytest.mark.parametrize("name", CLEAR)
def test_masks_that_mean_one_thing(tmp_path: Path, name: str) -> None:
    pixels, file = CLEAR[name]
    found = read_true_mask(draw(tmp_path / file, pixels, **({"quality": 95} if file.endswith(".jpg") else {}))).inside
    wrong = (found != INSIDE).sum()
    assert wrong == 0 if not file.endswith(".jpg") else wrong < 0.06 * INSIDE.size, "JPEG smears colours at edges"


def test_columbias_shades_of_its_edges(tmp_path: Path) -> None:
    """The edges' two sides are drawn in bright red and green, the rest in darker ones."""
    pixels = colours((0, 120, 0), (120, 0, 0))
    pixels[8:12, 10:40], pixels[4:8, 10:40] = (0, 255, 0), (255, 0, 0)
    found = read_true_mask(draw(tmp_path / "x_edgemask.png", pixels))
    assert (found.inside == INSIDE).all()
    assert "as Columbia's: green counts as manipulated" in str(found.how)


def test_a_mask_of_ones_alone_is_manipulated_all_over(tmp_path: Path) -> None:
    assert read_true_mask(draw(tmp_path / "a.png", np.ones(SIZE, np.uint8))).inside.all()


def test_palettes(tmp_path: Path) -> None:
    for colour in ((255, 255, 255), (128, 0, 0), (1, 1, 1)):
        image = Image.fromarray(grey(1)).convert("P")
        image.putpalette([0, 0, 0, *colour])
        image.save(tmp_path / "a.png")
        assert (read_true_mask(tmp_path / "a.png").inside == INSIDE).all()


THREE = grey(255)
THREE[30:35] = 100
LABELS = grey(1)
LABELS[30:35] = 2
HOLE = colours((255, 255, 255, 255), (255, 255, 255, 0))
UNCLEAR: dict[str, tuple[NDArray[Any], str]] = {
    "several faint levels": (LABELS, "its values are 0, 1, 2, all at most half of white (255)"),
    "one level of grey": (np.full(SIZE, 127, np.uint8), "its values are 127"),
    "transparency alone": (HOLE, "drawn in its transparency alone"),
    "red and green of another name": (colours((0, 200, 0), (200, 0, 0)), "green, red; red and green masks are known"),
    "a colour on white": (colours((255, 0, 0), (255, 255, 255)), "red, white or grey"),
    "two colours": (colours((255, 255, 0), (0, 0, 255)), "blue, yellow"),
    "no numbers": (np.where(INSIDE, np.nan, 0).astype(np.float32), "no numbers"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_masks_that_can_be_meant_in_several_ways(tmp_path: Path, name: str) -> None:
    pixels, why = UNCLEAR[name]
    path = draw(tmp_path / ("a.tif" if pixels.dtype == np.float32 else "a.png"), pixels)
    with pytest.raises(UsageError, match="is not clear") as caught:
        read_true_mask(path)
    assert why in str(caught.value.why)
    assert "black (0) and white (255)" in str(caught.value.hint)


def make_run(tmp_path: Path, count: int) -> tuple[Path, Path]:
    """A run of `count` images that finds most of INSIDE in each, and a folder for their true masks."""
    files = [f"{n}.jpg" for n in range(count)]
    levels = np.where(INSIDE, 200, 20).astype(np.uint8)
    levels[8:12] = 20
    for file in files:
        draw(tmp_path / "run" / "masks" / f"{file}.png", levels)
    arrays = {
        "image_file": np.array(files),
        "image_sha256": digests(files),
        "image_size": np.array([SIZE] * count, np.int32),
        "status": np.zeros(count, np.uint8),
        "error": np.zeros(count, "U1"),
        "offsets": np.zeros(count + 1, np.int64),
        "boxes": np.zeros((0, 4), np.float32),
        "classes": np.zeros(0, np.int32),
        "scores": np.zeros(0, np.float32),
        "masks": np.zeros(0, np.uint8),
        "mask_offsets": np.zeros(1, np.int64),
        "meta": np.array(json.dumps({key: META[key] for key in META if key != "attribute_names"})),
    }
    save(arrays, tmp_path / "run" / "predictions.npz")
    return tmp_path / "run", tmp_path / "gt"


def test_zeros_and_ones_are_masks(tmp_path: Path) -> None:
    run, gt = make_run(tmp_path, 2)
    for n, highest in enumerate((255, 255)):
        draw(gt / f"{n}.png", grey(highest) if n == 0 else grey(0))
    expected = evaluate_masks(run, gt)
    assert expected.pixel_fixed is not None
    assert expected.pixel_fixed.f1 == pytest.approx(16 / 18)  # 16 of 20 rows, no wrong one
    assert (expected.manipulated, expected.warnings) == (1, ())
    draw(gt / "0.png", grey(1))
    assert evaluate_masks(run, gt) == expected
    draw(gt / "1.png", grey(255))
    (warning,) = evaluate_masks(run, gt).warnings
    assert warning.startswith("1 of 2 true masks have the values 0 and 1, the others have higher ones")


def test_faint_coloured_and_third_levels_are_said(tmp_path: Path, capsys: Captured) -> None:
    run, gt = make_run(tmp_path, 4)
    draw(gt / "0.png", grey(100))
    draw(gt / "1.png", colours((128, 0, 0), (0, 0, 0)))
    draw(gt / "2.png", THREE)
    draw(gt / "3_edgemask.png", colours((0, 200, 0), (200, 0, 0)))
    found = evaluate_masks(run, gt)
    assert [warning.split(" (the first")[0].split(" true masks ")[0] for warning in found.warnings] == ["1 of 4"] * 4
    assert found.manipulated == 4
    assert main(["eval", str(run), "--masks", str(gt)]) == 0
    said = capsys.readouterr().err
    assert said.count("warning: ") == 4
    assert main(["eval", str(run), "--masks", str(gt), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == list(found.warnings)
    assert main(["eval", str(run), "--masks", str(gt), "--strict"]) == 2
    assert "a third level between black and white" in capsys.readouterr().err


def test_black_masks_on_white_are_suspected_and_read_inverted(tmp_path: Path, capsys: Captured) -> None:
    run, gt = make_run(tmp_path, 3)
    for n in range(3):
        draw(gt / f"{n}.png", grey(0, 255) if n < 2 else grey(255))
    found = evaluate_masks(run, gt)
    (warning,) = found.warnings
    assert warning.startswith("in 2 of 3 true masks most of the image and of its border is manipulated")
    assert "add --inverted-masks if black is manipulated" in warning
    draw(gt / "2.png", grey(0, 255))
    inverted = evaluate_masks(run, gt, is_inverted=True)
    assert inverted.pixel_fixed is not None
    assert inverted.pixel_fixed.f1 == pytest.approx(16 / 18)
    assert inverted.warnings == ()
    assert main(["eval", str(run), "--masks", str(gt), "--inverted-masks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pixel_fixed"]["f1"] == pytest.approx(16 / 18)
    for n in range(3):
        draw(gt / f"{n}.png", grey(255))
    assert "drop --inverted-masks" in evaluate_masks(run, gt, is_inverted=True).warnings[0]
    assert main(["eval", str(run), "-a", "x.json", "--inverted-masks"]) == 2


def test_masks_without_a_manipulated_pixel_are_said(tmp_path: Path) -> None:
    run, gt = make_run(tmp_path, 2)
    for n in range(2):
        draw(gt / f"{n}.png", grey(0))
    (warning,) = evaluate_masks(run, gt).warnings
    assert warning.startswith("none of 2 true masks has a manipulated pixel")


BAD: dict[str, tuple[Any, str]] = {
    "unclear": (LABELS, "is not clear"),
    "size": (np.zeros((41, 60), np.uint8), "is 60x40 pixels, the true one 60x41"),
    "text": (None, "cannot read the true mask"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_mask_of_many_is_skipped_and_named(tmp_path: Path, name: str) -> None:
    run, gt = make_run(tmp_path, 110)
    for n in range(110):
        draw(gt / f"{n}.png", grey(255))
    pixels, message = BAD[name]
    (gt / "7.png").write_text("no image")
    if pixels is not None:
        draw(gt / "7.png", pixels)
    found = evaluate_masks(run, gt)
    (skipped,) = found.skipped_masks
    assert skipped.startswith("7.jpg: ")
    assert message in skipped
    assert found.warnings == (f"1 of 110 true masks are skipped: {skipped}",)
    assert found.pixel_fixed is not None
    assert (found.images, found.manipulated) == (109, 109)
    assert found.pixel_fixed.f1 == pytest.approx(16 / 18)
    with pytest.raises(UsageError, match="doubtful"):
        evaluate_masks(run, gt, strict=True)
    (gt / "9.png").write_bytes((gt / "7.png").read_bytes())
    with pytest.raises((UsageError, PredictionsError)) as caught:
        evaluate_masks(run, gt)
    assert "2 of 110 true masks cannot be used: 7.jpg; 9.jpg" in str(caught.value.why)


def test_masks_with_endings_in_capitals_are_found(tmp_path: Path) -> None:
    run, gt = make_run(tmp_path, 1)
    draw(gt / "0.png", grey(255)).rename(gt / "0.PNG")
    assert evaluate_masks(run, gt).manipulated == 1
