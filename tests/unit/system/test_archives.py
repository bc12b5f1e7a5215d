"""Archives, hostile ones too: nothing leaves the folder, nothing grows beyond its word, nothing is lost in silence."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import MachineError, UsageError
from orchestrator.inputs.collect import collect_inputs
from orchestrator.system import archives, free_space
from orchestrator.system.archives import OUTSIDE, is_archive, safe_name, unpack
from tests.unit.conftest import MakePhoto


def everything(name: str, read: object) -> None:
    return None


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where archives are unpacked: two levels down, so that what escapes is seen."""
    (tmp_path / "deep" / "out").mkdir(parents=True)
    return tmp_path / "deep" / "out"


def test_a_member_without_a_name_is_skipped(tmp_path: Path, folder: Path) -> None:
    """Names end at a NUL byte."""
    path = write_zip(tmp_path / "a.zip", **{"xy.jpg": b"1", "b.jpg": b"2"})
    path.write_bytes(path.read_bytes().replace(b"xy.jpg", b"\0y.jpg"))
    taken, left = unpack(path, folder, everything)
    assert [one.name for one in taken] == ["b.jpg"]
    assert [one.error for one in left] == [OUTSIDE]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR.GZ", ".Zip"])
def test_every_kind_is_read(tmp_path: Path, folder: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix.lower() == ".zip":
        write_zip(path, **{"a/b.jpg": b"1", "ä.jpg": b"2"})
    else:
        mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix.lower()]
        write_tar(path, (tar_member("a/b.jpg"), b"1"), (tar_member("ä.jpg"), b"2"), mode=mode)
    assert is_archive(path)
    taken, left = unpack(path, folder, everything)
    assert [(one.name, one.error) for one in taken] == [("a/b.jpg", None), ("ä.jpg", None)]
    assert left == []
    assert tree(folder) == {"a/b.jpg": b"1", "ä.jpg": b"2"}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("12:30.jpg", "12:30.jpg"),
        ("..a/b..jpg", "..a/b..jpg"),
        *((name, None) for name in ("../a", "a/../../b", "/a", "//a", "\\a", "..\\a", "C:\\a", "c:a", "", ".", "a/..")),
    ],
)
def test_names_that_would_leave_the_folder_are_known(name: str, safe: str | None) -> None:
    assert safe_name(name) == safe


def test_hostile_names_in_a_zip(tmp_path: Path, folder: Path) -> None:
    names = ["../up.jpg", "a/../../up.jpg", "/tmp/absolute.jpg", "C:\\windows.jpg", "..\\up.jpg", "good.jpg"]
    path = write_zip(tmp_path / "a.zip", **dict.fromkeys(names, b"x"))
    taken, left = unpack(path, folder, everything)
    assert [one.name for one in taken] == ["good.jpg"]
    assert {one.error for one in left} == {"its name leads out of the folder"}
    assert tree(tmp_path) == {"a.zip": path.read_bytes(), "deep/out/good.jpg": b"x"}


def test_links_and_devices_are_left_out(tmp_path: Path, folder: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        (tar_member("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (tar_member("folder", tarfile.SYMTYPE, ".."), b""),
        (tar_member("folder/escaped.jpg"), b"inside"),
        (tar_member("hard.jpg", tarfile.LNKTYPE, "../../secret"), b""),
        (tar_member("pipe.jpg", tarfile.FIFOTYPE), b""),
        (tar_member("device.jpg", tarfile.CHRTYPE), b""),
        (tar_member("../up.jpg"), b"x"),
    )
    taken, left = unpack(path, folder, everything)
    assert [one.name for one in taken] == ["folder/escaped.jpg"]
    assert [one.name for one in left] == ["link.jpg", "folder", "hard.jpg", "pipe.jpg", "device.jpg", "../up.jpg"]
    assert tree(tmp_path / "deep") == {"out/folder/escaped.jpg": b"inside"}
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_links_in_a_zip_are_left_out(tmp_path: Path, folder: Path) -> None:
    info = zipfile.ZipInfo("link.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert [(one.name, one.error) for one in unpack(tmp_path / "a.zip", folder, everything)[1]] == [
        ("link.jpg", "a link")
    ]


def patched(path: Path, old: bytes, new: bytes, count: int) -> Path:
    content = path.read_bytes()
    assert content.count(old) == count, content.count(old)
    path.write_bytes(content.replace(old, new))
    return path


def test_a_member_larger_than_it_says_is_cut_off(tmp_path: Path, folder: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", **{"a.jpg": b"\0" * 3_000_001, "b.jpg": b"fine"})
    patched(path, (3_000_001).to_bytes(4, "little"), (1000).to_bytes(4, "little"), 2)
    taken, _ = unpack(path, folder, everything)
    assert taken[0].error is not None
    assert taken[1].error is None
    assert tree(folder) == {"b.jpg": b"fine"}


def test_a_damaged_member_costs_only_itself(tmp_path: Path, folder: Path) -> None:
    content = os.urandom(5000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", content)
        archive.writestr("b.jpg", b"fine")
    patched(tmp_path / "a.zip", content[100:120], b"\0" * 20, 1)
    taken, _ = unpack(tmp_path / "a.zip", folder, everything)
    assert taken[0].error == "cannot be unpacked: Bad CRC-32 for file 'a.jpg'"
    assert tree(folder) == {"b.jpg": b"fine"}


def test_an_encrypted_member_is_a_failed_image(tmp_path: Path, folder: Path) -> None:
    path = write_zip(tmp_path / "a.zip", **{"a.jpg": b"x"})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    taken, left = unpack(path, folder, everything)
    assert left == []
    assert "is encrypted" in str(taken[0].error)


@pytest.mark.parametrize("cut", [10, 600, 3000])
def test_a_cut_off_archive_is_refused(tmp_path: Path, folder: Path, cut: int) -> None:
    for path in (
        write_zip(tmp_path / "a.zip", **{"a.jpg": os.urandom(4000)}),
        write_tar(tmp_path / "a.tar.xz", (tar_member("a.jpg"), os.urandom(4000)), mode="w:xz"),
        write_tar(tmp_path / "a.tgz", (tar_member("a.jpg"), os.urandom(4000)), mode="w:gz"),
    ):
        path.write_bytes(path.read_bytes()[:cut])
        with suppress(UsageError):  # or else the member is damaged: never something unforeseen, never half a file
            taken, _ = unpack(path, folder, everything)
            assert taken[0].error is not None
        assert tree(folder) == {}


def test_what_is_no_archive_is_refused(tmp_path: Path, folder: Path) -> None:
    for name in ("a.zip", "a.tar", "a.tar.gz", "a.tar.xz"):
        (tmp_path / name).write_bytes(b"no archive" * 100)
        with pytest.raises(UsageError, match="cannot read the archive"):
            unpack(tmp_path / name, folder, everything)


def test_members_in_each_others_way_cost_only_themselves(tmp_path: Path, folder: Path) -> None:
    path = write_zip(tmp_path / "a.zip", **{"a": b"file", "a/b.jpg": b"x", "n" * 300 + ".jpg": b"x", "c.jpg": b"fine"})
    taken, _ = unpack(path, folder, everything)
    assert [one.error is None for one in taken] == [True, False, False, True]
    assert tree(folder) == {"a": b"file", "c.jpg": b"fine"}


def test_a_full_disk_is_the_machines_fault(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", **{"a.jpg": b"x" * 100})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(free_space.shutil, "disk_usage", lambda _: usage._replace(free=64 << 20))  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match=r"not enough disk space for unpacking a\.zip"):
        unpack(path, folder, everything)


def test_a_disk_that_fills_up_is_no_damaged_archive(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "a.zip", **{"a.jpg": b"x" * 100})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(MachineError, match=r"the disk is full: cannot unpack a\.jpg"):
        unpack(path, folder, everything)


def archive_of_photos(path: Path, photo: MakePhoto) -> Path:
    content = photo(path.parent / "source.png").read_bytes()
    return write_zip(path, **{"x/b.jpg": content, "a.jpg": content, "notes.md": b"", "__MACOSX/._a.jpg": b""})


def test_images_of_an_archive_are_unpacked_once(
    tmp_path: Path, photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_of_photos(tmp_path / "photos.zip", photo)
    first = collect_inputs([str(path)], tmp_path / "unpacked")
    assert [image.file for image in first.images] == ["a.jpg", "x/b.jpg"]
    assert {image.mtime_ns for image in first.images} == {path.stat().st_mtime_ns}
    assert {one.file: one.reason for one in first.skipped} == {
        "notes.md": "not an image: .md", "__MACOSX/._a.jpg": "hidden"
    }  # fmt: skip
    assert all(first.locate(image).is_file() for image in first.images)
    unpacked: Callable[..., Any] = archives.unpack
    monkeypatch.setattr("orchestrator.inputs.sources.unpack", None)
    assert collect_inputs([str(path)], tmp_path / "unpacked") == first
    monkeypatch.setattr("orchestrator.inputs.sources.unpack", unpacked)
    os.utime(path, (1, 1))
    assert {image.mtime_ns for image in collect_inputs([str(path)], tmp_path / "unpacked").images} == {10**9}


def test_damaged_images_of_an_archive_fail_and_stay_listed(tmp_path: Path, photo: MakePhoto) -> None:
    content = photo(tmp_path / "a.png", size=(64, 64)).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", content)
        archive.writestr("b.png", b"0" * 4000)
    patched(tmp_path / "a.zip", b"0" * 4000, b"0" * 3999 + b"1", 1)
    inputs = collect_inputs([str(tmp_path / "a.zip")], tmp_path / "unpacked")
    assert [(image.file, image.error is None) for image in inputs.images] == [("a.png", True), ("b.png", False)]


def test_an_archive_named_twice_and_one_without_images(tmp_path: Path, photo: MakePhoto) -> None:
    path = archive_of_photos(tmp_path / "photos.zip", photo)
    twice = collect_inputs([str(path), str(path)], tmp_path / "unpacked")
    assert [image.file for image in twice.images] == ["a.jpg", "x/b.jpg"]
    assert [one.reason for one in twice.skipped].count("named twice") == 2
    with pytest.raises(UsageError, match="no images in"):
        collect_inputs([str(write_zip(tmp_path / "empty.zip"))], tmp_path / "unpacked2")
