"""Decode image files of any mode into (H, W, 3) uint8 arrays by one set of rules.

Grey is repeated over three channels, alpha is dropped (not composited: cv2.imread and PIL's convert do the same),
CMYK is converted, 16-bit grey is shifted to 8 bits, palettes are expanded, floating-point pixels are refused; the first
image of a file with several, animated or not, is used. Cameras' raw files are refused: they are TIFFs whose first image
is a small preview.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Callable, Dict

import numpy as np
import PIL
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from orch_runner.decode_pool import Reserve, reserve_nothing
from orch_runner.image_file import DecodeError, read_image_file

# Once, not around each call: changing the filters is not safe while other threads decode.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION = 0x0112
CHANNELS = 3
_SUBFILE_TYPE, _SUB_IFDS = 254, 330
_FORMATS = {
    rb"....ftypavi": "an AVIF image",
    rb"....ftyp(hei|hev|mif1|msf1)": "a HEIC image",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL image",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 image",
    rb"RIFF....WEBP": "a WebP image",
    rb"v/1\x01": "an OpenEXR image",
    rb"#\?RADIANCE": "an HDR image",
    rb"qoif": "a QOI image",
}
"""Formats that some or all versions of Pillow cannot read, by the first bytes."""
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


_Reader = Callable[[bytes, PillowImage.Image], np.ndarray]
"""A function that reads the pixels of an opened file, as stored, into (H, W, 3) uint8 RGB."""


def decode_pillow(data: bytes, exif: str, max_pixels: int, reserve: Reserve = reserve_nothing) -> np.ndarray:
    """Decode a file's content with Pillow into (H, W, 3) uint8 RGB. Raises DecodeError."""
    return _decode(data, exif, max_pixels, reserve, _read_with_pillow)


def decode_opencv(data: bytes, exif: str, max_pixels: int, reserve: Reserve = reserve_nothing) -> np.ndarray:
    """Decode a file's content into (H, W, 3) uint8 RGB, JPEGs with the pixels of cv2.imread. Raises DecodeError.

    Pillow still checks each file, so both decoders accept the same files; it also reads the other formats, in which
    both libraries give the same pixels.
    """
    return _decode(data, exif, max_pixels, reserve, _read_with_opencv)


def _decode(data: bytes, exif: str, max_pixels: int, reserve: Reserve, read: _Reader) -> np.ndarray:
    # Disable Pillow's own limit: the runner checks the limit that the user has set.
    PillowImage.MAX_IMAGE_PIXELS = None
    try:
        with PillowImage.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DecodeError(f"{width}x{height} pixels is more than the limit of {max_pixels}")
            if image.format == "TIFF" and _is_preview(data, image):
                raise DecodeError("a camera's raw file, of which only a small preview can be read; convert it first")
            reserve(width * height * CHANNELS)
            # Newer Pillow versions always apply the orientation of TIFFs while loading.
            stored = _read_orientation(image) if image.format == "TIFF" else 1
            pixels = read(data, image)
            remaining = _read_orientation(image)
    except DecodeError:
        raise
    except MemoryError as error:
        raise DecodeError("not enough memory to decode") from error
    except Exception as error:  # Pillow's plugins raise errors of nearly any class on a broken file
        raise DecodeError(_explain(error, data)) from error
    if not pixels.size:
        raise DecodeError("the image has no pixels")
    if exif == "apply":
        return apply_orientation(pixels, remaining)
    return pixels if remaining != 1 else apply_orientation(pixels, {6: 8, 8: 6}.get(stored, stored))


def _read_with_pillow(data: bytes, image: PillowImage.Image) -> np.ndarray:
    del data
    image.load()
    return _to_rgb(image)


def _read_with_opencv(data: bytes, image: PillowImage.Image) -> np.ndarray:
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return _read_with_pillow(data, image)
    import cv2

    width, height = image.size
    # OpenCV fills the missing part of a truncated file, Pillow raises; at an eighth of the size that check is quick.
    image.draft(image.mode, (1, 1))
    image.load()
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape != (height, width, 3):
        with PillowImage.open(io.BytesIO(data)) as reopened:
            return _read_with_pillow(data, reopened)
    return np.asarray(pixels)[:, :, ::-1]


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return pixels (H, W, 3) turned and mirrored by the EXIF orientation (1 to 8)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _read_orientation(image: PillowImage.Image) -> int:
    try:
        value = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # good pixels are usable with broken metadata
        return 1
    return value if 1 <= value <= 8 else 1


def _is_preview(data: bytes, image: PillowImage.Image) -> bool:
    """Return whether the first image of a TIFF is a reduced copy of another one, as in DNG, NEF, ARW and CR2 files."""
    tags = getattr(image, "tag_v2", {})
    return data[8:10] == b"CR" or bool(tags.get(_SUBFILE_TYPE, 0) == 1 and _SUB_IFDS in tags)


def _explain(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        for signature, name in _FORMATS.items():
            if re.match(signature, data, re.DOTALL):
                return f"{name}, which this model's Pillow {PIL.__version__} cannot read; convert it to PNG or JPEG"
        return "not an image, or of a kind that Pillow cannot read"
    return f"broken image: {str(error) or type(error).__name__}"


def _to_rgb(image: PillowImage.Image) -> np.ndarray:
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no defined range; convert the image to 8 bits first")
    if image.mode in _SIXTEEN_BIT:
        return _repeat_grey(np.asarray(image).astype(np.uint16) >> 8)
    if image.mode == "I":
        values = np.asarray(image)
        if int(values.max(initial=0)) > 65535 or int(values.min(initial=0)) < 0:
            raise DecodeError("32-bit pixels have no defined range; convert the image to 8 bits first")
        return _repeat_grey(values >> 8)
    # convert() copies even what is RGB already.
    return np.ascontiguousarray(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))


def _repeat_grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


Decoder = Callable[[bytes, str, int, Reserve], np.ndarray]
DECODERS: Dict[str, Decoder] = {"pillow": decode_pillow, "opencv": decode_opencv}
MODULES = {"pillow": "PIL", "opencv": "cv2"}
"""The module that each decoder imports."""


MAX_FILE_BYTES = 1 << 30
"""The largest file that `decode` reads; jobs have a limit of their own."""


def decode(path: Path, decoder: str, color: str, exif: str, max_pixels: int) -> np.ndarray:
    """Decode `path` as `decode_content` does. Raises DecodeError."""
    return decode_content(read_image_file(path, MAX_FILE_BYTES, None, None).data, decoder, color, exif, max_pixels)


def decode_content(
    data: bytes, decoder: str, color: str, exif: str, max_pixels: int, reserve: Reserve = reserve_nothing
) -> np.ndarray:
    """Decode a file's content into a C-contiguous (H, W, 3) uint8 array in `color` order. Raises DecodeError.

    `reserve` is called with the bytes of that array before they are needed, and may wait.
    """
    pixels = DECODERS[decoder](data, exif, max_pixels, reserve)
    return np.ascontiguousarray(pixels[:, :, ::-1] if color == "BGR" else pixels)
