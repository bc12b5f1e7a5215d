"""Images are told by their content: none is skipped because of its name, and files with usual names are not opened."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image, features

from orchestrator.inputs import folders
from orchestrator.inputs.collect import InputSet, collect_inputs
from orchestrator.inputs.signatures import is_image, read_head

WRITTEN = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "DDS"]
WRITTEN += ["AVIF"] if features.check("avif") else []
HEADS = {
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "HEIF": b"\0\0\0\x18ftypmif1\0\0\0\0",
    "JPEG XL": b"\xff\x0a\x00\x10",
    "JPEG XL in a container": b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "BigTIFF": b"MM\0+\0\x08\0\0",
    "PGM": b"P5\n# made by hand\n2 2\n255\n",
    "Photoshop": b"8BPS\0\x01",
    "OpenEXR": b"v/1\x01\x02\0\0\0",
}
OTHERS = {
    "empty": b"",
    "text": b"BMW, PNG and GIF are words; P5 is one too\n",
    "json": b'{"P6": 1}',
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04",
    "wave": b"RIFF\x24\0\0\0WAVEfmt ",
    "mp4": b"\0\0\0\x18ftypisom\0\0\0\0",
    "npz": b"\x93NUMPY\x01\0",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((8, 6)).convert("RGB").save(stream, kind)
    return stream.getvalue()


def collect(folder: Path, source: Path | str) -> InputSet:
    return collect_inputs([str(source)], folder / "unpacked")


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_pillow_writes_is_an_image(kind: str) -> None:
    assert is_image(encoded(kind)[:32])


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_other_formats_are_images_too(head: bytes) -> None:
    assert is_image(head)


@pytest.mark.parametrize("head", OTHERS.values(), ids=OTHERS)
def test_what_is_no_image(head: bytes) -> None:
    assert not is_image(head)


@pytest.mark.parametrize("name", ["photo", "photo.jfif", "photo.heic", "IMG_1.JPG_original", "a.b.c", "x.txt", "x."])
@pytest.mark.parametrize("source", ["", "*", "**"])
def test_no_image_is_skipped_because_of_its_name(tmp_path: Path, name: str, source: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(encoded("JPEG"))
    (folder / "notes.txt").write_text("no image")
    inputs = collect(tmp_path, folder / source)
    assert [image.file for image in inputs.images] == [name]
    assert [(one.file, one.reason) for one in inputs.skipped] == [("notes.txt", "not an image: .txt")]


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_members_of_archives_as_well(tmp_path: Path, suffix: str) -> None:
    path, content = tmp_path / f"x{suffix}", {"in/photo": encoded("PNG"), "in/notes": b"text"}
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, data in content.items():
                zipped.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as tarred:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tarred.addfile(member, io.BytesIO(data))
    inputs = collect(tmp_path, path)
    assert [image.file for image in inputs.images] == ["in/photo"]
    assert inputs.locate(next(iter(inputs.images))).read_bytes() == content["in/photo"]
    assert [(one.file, one.reason) for one in inputs.skipped] == [("in/notes", "not an image: no extension")]


def test_files_with_a_usual_name_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.PNG", "c.tiff", "d.txt", ".e", "f"):
        (folder / name).write_bytes(b"x")
    opened: list[str] = []

    def read(path: str) -> bytes:
        opened.append(Path(path).name)
        return b""

    monkeypatch.setattr(folders, "read_head", read)
    collect(tmp_path, folder)
    assert opened == ["d.txt", "f"]


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read_head(str(tmp_path / "pipe")) == b""
    assert read_head("/dev/tty" if Path("/dev/tty").exists() else "/dev/null") == b""
