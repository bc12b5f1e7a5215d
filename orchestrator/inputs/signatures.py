"""Tell images from other files by their first bytes, for files whose name does not say it."""

from __future__ import annotations

import os
import re
import stat

HEAD_BYTES = 32
_SIGNATURES = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|RIFF....WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # BMP: the sizes that its second header may have
    rb"|II[*+]\0|MM\0[*+]"  # TIFF, BigTIFF, and most cameras' raw files
    rb"|....ftyp(avi[fs]|hei[cxms]|hev[cxms]|mif1|msf1)"  # AVIF, HEIC
    rb"|\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"  # JPEG XL
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"  # JPEG 2000
    rb"|P[1-7]\s+[#\d]"  # PBM, PGM, PPM, PAM
    rb"|8BPS\0|DDS |qoif|#\?RADIANCE|v/1\x01",  # Photoshop, DirectDraw, QOI, HDR, OpenEXR
    re.DOTALL,
)


def is_image(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is an image, of a format that decoders may or may not read."""
    return _SIGNATURES.match(head) is not None


def read_head(path: str) -> bytes:
    """Return the first bytes of a regular file; nothing of any other. Raises OSError."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # a str is what a walk of ten million has
        return b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        return stream.read(HEAD_BYTES)
