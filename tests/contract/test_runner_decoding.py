"""Every kind of image file: the right pixels, or a reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.contract.harness import Guest, Outcome, every_python

ORIENTATION = 0x0112


@pytest.fixture
def rgb() -> np.ndarray:
    """A small image in which every pixel differs."""
    rows, columns = np.mgrid[0:24, 0:30]
    return np.stack([rows * 9, columns * 8, rows + columns], axis=2).astype(np.uint8)


def seen(guest: Guest, file: str) -> np.ndarray:
    """The pixels that reached the predictor."""
    pixels: np.ndarray = np.load(guest.root / "cache" / f"{file}.npy")
    return pixels


def grey_of(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def with_alpha(rgb: np.ndarray) -> np.ndarray:
    return np.dstack([rgb, 255 - rgb[:, :, 2]])


def save_exact(guest: Guest, rgb: np.ndarray) -> dict[str, np.ndarray]:
    """Files of every kind whose pixels survive storing, and those pixels."""
    image, grey = Image.fromarray(rgb), rgb[:, :, 0]
    expected: dict[str, np.ndarray] = {}

    def add(file: str, content: Image.Image | np.ndarray, pixels: np.ndarray, **options: object) -> None:
        expected[guest.save(file, content, **options)] = pixels

    for suffix in ("png", "bmp", "tif", "ppm", "tga"):
        add(f"rgb.{suffix}", image, rgb)
    add("rgb.webp", image, rgb, lossless=True)
    add("grey.png", grey, grey_of(grey))
    add("alpha.png", with_alpha(rgb), rgb)
    add("alpha.webp", with_alpha(rgb), rgb, lossless=True, exact=True)
    add("la.png", np.dstack([grey, 255 - grey]), grey_of(grey))
    palette = image.quantize(16)
    add("palette.png", palette, np.asarray(palette.convert("RGB")))
    add("palette-clear.png", palette, np.asarray(palette.convert("RGB")), transparency=3)
    add("palette-alpha.png", palette, np.asarray(palette.convert("RGB")), transparency=bytes(range(16)))
    add("bits.png", Image.fromarray(grey > 100), grey_of(np.where(grey > 100, 255, 0)))
    deep = (grey.astype(np.uint16) << 8) + 77
    add("deep.png", Image.fromarray(deep), grey_of(grey))
    add("deep.tif", Image.fromarray(deep), grey_of(grey))
    add("deep-i.tif", Image.fromarray(deep.astype(np.int32)), grey_of(grey))
    others = [Image.fromarray(255 - rgb)]
    add("frames.tif", image, rgb, save_all=True, append_images=others)
    add("frames.webp", image, rgb, save_all=True, append_images=others, lossless=True)
    add("frames.gif", palette, np.asarray(palette.convert("RGB")), save_all=True, append_images=[palette.rotate(180)])
    add("dot.png", rgb[:1, :1] + 1, rgb[:1, :1] + 1)
    add("column.png", rgb[:, :1], rgb[:, :1])
    add("wrong-name.jpg.png", image, rgb)
    (guest.root / "data" / "wrong-name.jpg.png").rename(guest.root / "data" / "wrong-name.jpg")
    expected["wrong-name.jpg"] = expected.pop("wrong-name.jpg.png")
    return expected


def save_lossy(guest: Guest, rgb: np.ndarray) -> dict[str, np.ndarray]:
    """JPEGs in the colour spaces they come in, and the pixels Pillow shows."""
    image = Image.fromarray(rgb)
    files = [
        guest.save("rgb.jpg", image, quality=95),
        guest.save("grey.jpg", image.convert("L"), quality=95),
        guest.save("cmyk.jpg", image.convert("CMYK"), quality=95),
    ]
    return {file: np.asarray(Image.open(guest.root / "data" / file).convert("RGB")) for file in files}


def save_broken(guest: Guest, rgb: np.ndarray) -> dict[str, str]:
    """Files that cannot be predicted, and a word of the reason."""
    data = guest.root / "data"
    whole = (data / "rgb.png").read_bytes()
    (data / "cut.png").write_bytes(whole[: len(whole) // 2])
    jpeg = (data / "rgb.jpg").read_bytes()
    (data / "cut.jpg").write_bytes(jpeg[:-20])
    (data / "text.jpg").write_text("this is no image")
    (data / "empty.png").touch()
    (data / "folder.png").mkdir()
    os.mkfifo(data / "pipe.png")
    guest.save("float.tif", rgb[:, :, 0].astype(np.float32))
    guest.save("huge-values.tif", Image.fromarray(rgb[:, :, 0].astype(np.int32) * 70_000))
    guest.save("large.png", np.zeros((40, 41, 3), np.uint8))
    return {
        "cut.png": "broken image",
        "cut.jpg": "broken image: image file is truncated",
        "text.jpg": "not an image",
        "empty.png": "not an image",
        "folder.png": "not a regular file",
        "pipe.png": "not a regular file",
        "gone.png": "does not exist",
        "float.tif": "floating-point",
        "huge-values.tif": "32-bit",
        "large.png": "41x40 pixels is more than the limit of 1600",
    }


@every_python
def test_every_kind_of_file_gives_its_pixels_or_a_reason(guest: Guest, rgb: np.ndarray) -> None:
    exact, lossy = save_exact(guest, rgb), save_lossy(guest, rgb)
    broken = save_broken(guest, rgb)
    files = [*exact, *broken, *lossy]
    guest.put(0, files)
    outcome = guest.run({"dump": True}, max_pixels=1600)
    assert outcome.status == 0
    assert set(outcome.errors) == set(broken)
    for file, sign in broken.items():
        assert sign in outcome.errors[file]
    for file, pixels in exact.items():
        assert np.array_equal(seen(guest, file), pixels), file
    for file, pixels in lossy.items():
        assert np.abs(seen(guest, file).astype(int) - pixels).max() <= 3, file
    shard = guest.shard(0)
    sizes = {
        **dict.fromkeys(broken, (0, 0)),
        **{file: pixels.shape[:2] for file, pixels in (exact | lossy).items()},
    }
    assert shard["image_file"].tolist() == files
    assert [tuple(size) for size in shard["image_size"].tolist()] == [sizes[file] for file in files]


def oriented(guest: Guest, rgb: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Files of each orientation: the pixels stored, those upright, and how far storing may change them."""
    blocks = np.kron(rgb[::8, ::10], np.ones((16, 16, 1), np.uint8))
    expected: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for orientation in range(10):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        tagged = Image.fromarray(blocks)
        tagged.getexif()[ORIENTATION] = orientation
        upright = np.asarray(ImageOps.exif_transpose(tagged))
        options: dict[str, dict[str, Any]] = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
        for suffix, tolerance in (("jpg", 12), ("png", 0), ("tif", 0), ("webp", 0)):
            file = guest.save(f"{orientation}.{suffix}", blocks, exif=exif, **options.get(suffix, {}))
            expected[file] = (blocks, upright, tolerance)
    guest.save("garbage.jpg", blocks, quality=95, subsampling=0, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + bytes(9))
    expected["garbage.jpg"] = (blocks, blocks, 12)
    return expected


@every_python
@pytest.mark.parametrize("policy", ["apply", "ignore"])
def test_exif_orientation_is_applied_or_ignored_in_every_format(guest: Guest, rgb: np.ndarray, policy: str) -> None:
    expected = oriented(guest, rgb)
    guest.put(0, list(expected))
    outcome = guest.run({"dump": True}, exif=policy)
    assert outcome.errors == {}
    sizes = [tuple(size) for size in guest.shard(0)["image_size"].tolist()]
    for size, (file, (stored, upright, tolerance)) in zip(sizes, expected.items(), strict=True):
        wanted, pixels = upright if policy == "apply" else stored, seen(guest, file)
        assert pixels.shape == wanted.shape, file
        assert np.abs(pixels.astype(int) - wanted).max() <= tolerance, file
        assert size == wanted.shape[:2], file


def test_channels_come_in_the_order_the_predictor_asked_for(guest: Guest, rgb: np.ndarray) -> None:
    guest.put(0, [guest.save("rgb.png", rgb)])
    guest.environment["LEVELS_COLOR"] = "BGR"
    assert guest.run({"dump": True}).status == 0
    assert np.array_equal(seen(guest, "rgb.png"), rgb[:, :, ::-1])


def run_threads(guest: Guest, rgb: np.ndarray, readers: int) -> Outcome:
    guest.put(0, [guest.save(f"{at}.png", np.roll(rgb, at, axis=0)) for at in range(40)])
    return guest.run({"masks": "crop"}, readers=readers)


def test_decoding_in_many_threads_changes_nothing(make_guest: Callable[[str], Guest], rgb: np.ndarray) -> None:
    one, many = make_guest("one"), make_guest("many")
    assert (run_threads(one, rgb, 1).status, run_threads(many, rgb, 8).status) == (0, 0)
    assert (one.root / "out" / "00000.npz").read_bytes() == (many.root / "out" / "00000.npz").read_bytes()


@every_python
def test_digests_are_those_of_the_files_that_were_decoded(guest: Guest, rgb: np.ndarray) -> None:
    guest.save("a.png", rgb)
    (guest.root / "data" / "broken.png").write_bytes(b"no image")
    guest.put(0, ["a.png", "broken.png", "gone.png"])
    guest.run()
    found = [digest.tobytes() for digest in guest.shard(0)["image_sha256"]]
    files = [(guest.root / "data" / name).read_bytes() for name in ("a.png", "broken.png")]
    assert found == [*(hashlib.sha256(content).digest() for content in files), bytes(32)]


@pytest.mark.parametrize(("field", "value"), [("size", 1), ("mtime_ns", 1)])
def test_a_file_that_changed_since_it_was_listed_fails_alone(
    guest: Guest, rgb: np.ndarray, field: str, value: int
) -> None:
    guest.save("a.png", rgb)
    guest.put(0, ["a.png"], **{field: value})
    guest.put(1, ["a.png"])
    guest.run()
    assert guest.shard(0)["error"].tolist() == ["the file changed after the images of this run were listed"]
    assert guest.shard(1)["error"].tolist() == [""]


def test_a_file_beyond_the_size_limit_fails_alone(guest: Guest, rgb: np.ndarray) -> None:
    guest.save("a.png", rgb)
    with (guest.root / "data" / "sparse.png").open("wb") as stream:
        stream.truncate(6 << 30)
    guest.put(0, ["sparse.png", "a.png"])
    guest.run()
    assert guest.shard(0)["error"].tolist() == ["the file has 6442450944 bytes, more than the limit of 1048576", ""]
