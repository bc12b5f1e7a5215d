"""EXIF orientations by the standard's own words for each; and OpenCV's pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from orch_runner.decode import DecodeError, apply_orientation, decode, decode_opencv, decode_pillow
from PIL import Image, ImageOps, TiffImagePlugin

LIMIT = 1_000_000


def picture(mode: str, size: tuple[int, int] = (75, 50)) -> Image.Image:
    """Noise, which no two decoders would happen to agree on."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, shape, np.uint8), mode)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation: int) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    turned = apply_orientation(pixels, orientation)
    assert np.array_equal(turned, np.asarray(ImageOps.exif_transpose(image)))
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_opencv_pixels_of_jpegs(tmp_path: Path, mode: str, options: dict[str, Any], orientation: int) -> None:
    file = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(mode).save(file, exif=exif, **options)
    upstream = cv2.imread(str(file))
    assert upstream is not None
    assert np.array_equal(decode(file, "opencv", "BGR", "apply", LIMIT), upstream)
    as_stored = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert as_stored is not None
    ignored = decode(file, "opencv", "RGB", "ignore", LIMIT)
    assert np.array_equal(ignored, as_stored[:, :, ::-1])
    assert ignored.flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "mode"), [("x.png", "RGBA"), ("x.png", "LA"), ("x.jpg", "CMYK"), ("x.webp", "RGB"), ("x.bmp", "RGB")]
)
def test_other_kinds_are_read_as_everywhere(tmp_path: Path, name: str, mode: str) -> None:
    picture(mode).save(tmp_path / name)
    assert np.array_equal(
        decode_opencv((tmp_path / name).read_bytes(), "apply", LIMIT),
        decode_pillow((tmp_path / name).read_bytes(), "apply", LIMIT),
    )


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_what_is_cut_off_is_refused_alike(tmp_path: Path, options: dict[str, Any], share: float) -> None:
    picture("RGB", (300, 200)).save(tmp_path / "whole.jpg", **options)
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: int(len(content) * share)])
    reasons = []
    for decoder in (decode_pillow, decode_opencv):
        with pytest.raises(DecodeError) as caught:
            decoder((tmp_path / "cut.jpg").read_bytes(), "apply", LIMIT)
        reasons.append(str(caught.value).partition("(")[0])
    assert reasons[0] == reasons[1]


def test_opencv_keeps_the_limit(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "x.jpg")
    with pytest.raises(DecodeError, match="75x50 pixels is more than the limit of 100"):
        decode_opencv((tmp_path / "x.jpg").read_bytes(), "apply", 100)


def test_what_opencv_refuses_pillow_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("RGB").save(tmp_path / "x.jpg")
    expected = decode_pillow((tmp_path / "x.jpg").read_bytes(), "apply", LIMIT)

    def refuse(*_: object) -> None:
        raise cv2.error("no")

    for refusal in (refuse, lambda *_: None):
        monkeypatch.setattr(cv2, "imdecode", refusal)
        assert np.array_equal(decode_opencv((tmp_path / "x.jpg").read_bytes(), "apply", LIMIT), expected)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, which this model's Pillow"),
        (b"\xff\x0a\x00\x10", "a JPEG XL image, which this model's Pillow"),
        (b"v/1\x01\x02\0\0\0", "an OpenEXR image, which this model's Pillow"),
        (b"plain text", "not an image, or of a kind that Pillow cannot read"),
    ],
)
def test_a_format_that_cannot_be_read_is_named(head: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_pillow(head, "apply", LIMIT)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_images_the_first_is_used(kind: str) -> None:
    stream, first = io.BytesIO(), Image.new("RGB", (6, 4), (200, 0, 0))
    first.save(stream, kind, save_all=True, append_images=[Image.new("RGB", (6, 4), (0, 0, 200))], lossless=True)
    pixels = decode_pillow(stream.getvalue(), "apply", LIMIT)
    assert pixels.shape == (4, 6, 3)
    assert (pixels == (200, 0, 0)).all()


def test_the_preview_of_a_raw_file_is_not_taken_for_the_photograph() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254], tags[330] = 1, 8
    stream = io.BytesIO()
    Image.new("RGB", (16, 12)).save(stream, "TIFF", tiffinfo=tags)
    with pytest.raises(DecodeError, match="a camera's raw file"):
        decode_pillow(stream.getvalue(), "apply", LIMIT)
