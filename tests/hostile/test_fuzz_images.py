"""Files given as images, and archives of them: pixels by the rules or a reason, and nothing outside of the folder."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orch_runner.decode import decode_content
from orch_runner.image_file import DecodeError
from PIL import Image

from orchestrator.errors import OrchError
from orchestrator.inputs.collect import InputSet, collect_inputs
from tests.hostile.fuzzing import damaged, fuzzed

MOST_PIXELS = 100_000
FORMATS = ("png", "jpeg", "tiff", "bmp", "gif", "webp", "ppm", "ico", "tga", "pcx")
MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16")


def encode(kind: str, mode: str) -> bytes | None:
    """Return a small picture; None where the format has no such mode."""
    pixels = np.random.default_rng(7).integers(0, 255, (11, 13, 3), np.uint8)
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    try:
        picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
        picture.save(stream, kind, **({"exif": exif} if kind in ("jpeg", "webp", "tiff") else {}))
    except (OSError, ValueError, KeyError):
        return None
    return stream.getvalue()


PICTURES = [content for kind in FORMATS for mode in MODES if (content := encode(kind, mode))]


@given(st.sampled_from(PICTURES).flatmap(damaged), st.sampled_from(["RGB", "BGR"]), st.booleans())
@fuzzed(400)
def test_an_image_is_pixels_or_a_reason(content: bytes, color: str, is_turned: bool) -> None:
    reason, pixels = "", None
    try:
        pixels = decode_content(content, "pillow", color, "apply" if is_turned else "ignore", MOST_PIXELS)
    except DecodeError as error:
        reason = str(error)
    if pixels is None:
        assert reason.strip()
        return
    height, width, channels = pixels.shape
    assert (channels, pixels.dtype) == (3, np.uint8)
    assert 0 < height * width <= MOST_PIXELS
    assert pixels.flags.c_contiguous


NAMES = st.one_of(
    st.sampled_from(
        ["a.png", "b/a.png", "../a.png", "/a.png", "b", "b/", "C:\\a.png", "..\\a.png", "a.png/c.png", "./a.png", "",
         ".", "..", "b/../../a.png", "~/a.png", "-x.png", "a\nb.png", "\x1b[2J.png", f"{'n' * 300}.png",
         "/".join(["d"] * 200) + "/a.png"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map("{}.png".format),
)  # fmt: skip
CONTENTS = st.sampled_from([PICTURES[0], b"", b"no image", PICTURES[1][:40]])
KINDS = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)
TARGETS = ("../secret.png", "/etc/passwd", "a.png", "b", ".", "..")


@st.composite
def archives(draw: st.DrawFn) -> tuple[str, bytes]:
    """The name and the bytes of an archive with hostile members, damaged or not."""
    members = draw(st.lists(st.tuples(NAMES, CONTENTS, st.sampled_from(KINDS), st.sampled_from(TARGETS)), max_size=5))
    name = draw(st.sampled_from(["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"]))
    content = make_zip(members) if name == "x.zip" else make_tar(members, name.rpartition(".")[2])
    return name, draw(damaged(content)) if draw(st.booleans()) else content


def make_zip(members: Sequence[tuple[str, bytes, bytes, str]]) -> bytes:
    """Return a .zip; a symbolic link is one by its attributes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, kind, target in members:
            info = zipfile.ZipInfo(name or "x")
            is_link = kind == tarfile.SYMTYPE
            info.external_attr = (0o120777 if is_link else 0o100644) << 16
            archive.writestr(info, target if is_link else content)
    return stream.getvalue()


def make_tar(members: Sequence[tuple[str, bytes, bytes, str]], compression: str) -> bytes:
    """Return a .tar with entries of these kinds."""
    stream = io.BytesIO()
    mode: Any = "w" if compression == "tar" else f"w:{compression}"
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content) if info.size else None)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archives")
    (root / "secret.png").write_bytes(PICTURES[0])
    return root


def collect(source: Path, folder: Path) -> InputSet | None:
    """Collect the images of a source; None where orch refuses it."""
    try:
        return collect_inputs([str(source)], folder)
    except OrchError:
        return None


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(archives())
@fuzzed(150)
def test_an_archive_gives_images_of_its_own_folder_alone(folder: Path, archive: tuple[str, bytes]) -> None:
    name, content = archive
    unpacked, source = folder / "unpacked", folder / name
    source.write_bytes(content)
    before = {path for path in folder.iterdir() if path != unpacked}
    inputs = collect(source, unpacked)
    assert {path for path in folder.iterdir() if path != unpacked} == before
    for path in unpacked.rglob("*"):
        assert not path.is_symlink()
        assert path.is_file() or path.is_dir()
    for image in inputs.images if inputs is not None else ():
        if inputs is not None and image.error is None:
            assert os.path.realpath(inputs.locate(image)).startswith(f"{os.path.realpath(unpacked)}/")
    del inputs
    empty(unpacked)
    source.unlink()


def empty(folder: Path) -> None:
    """Remove a folder that may be deep."""
    for path in sorted(folder.rglob("*"), reverse=True):
        (path.rmdir if path.is_dir() else path.unlink)()
