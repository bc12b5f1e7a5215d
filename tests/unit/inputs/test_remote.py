"""Images at http(s) addresses: fetched once, asked for anew, kept by content; secrets and private hosts stay out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.errors import MachineError, UsageError
from orchestrator.inputs import InputSet, collect_inputs, recorded_source, save_names
from orchestrator.inputs.remote import fetch_url
from tests.unit.web import Site, serve


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    with serve() as running:
        yield running


def picture(color: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


def collect(tmp_path: Path, *sources: str, offline: bool = False) -> InputSet:
    return collect_inputs(sources, tmp_path / "unpacked", offline=offline)


def test_an_image_is_fetched_once_and_asked_for_again(site: Site, tmp_path: Path) -> None:
    site.files["/a%20b.png"], site.etags["/a%20b.png"] = picture(), '"1"'
    address = f"{site.url}/a%20b.png"
    first = collect(tmp_path, address)
    assert [image.file for image in first.images] == ["a b.png"]
    assert first.locate(next(iter(first.images))).read_bytes() == picture()
    count = len(site.seen)
    assert collect(tmp_path, address).digest() == first.digest()
    assert len(site.seen) == count + 1  # only asked whether it changed
    site.files["/a%20b.png"], site.etags["/a%20b.png"] = picture("blue"), '"2"'
    changed = collect(tmp_path, address)
    (before,), (after,) = first.images, changed.images
    assert after.mtime_ns != before.mtime_ns
    assert changed.locate(after).read_bytes() == picture("blue")


def test_a_server_without_versions_is_fetched_from_again_with_the_same_result(site: Site, tmp_path: Path) -> None:
    site.files["/a.png"] = picture()
    (first,), (second,) = collect(tmp_path, f"{site.url}/a.png").images, collect(tmp_path, f"{site.url}/a.png").images
    assert first == second


def test_a_damaged_copy_is_fetched_again(site: Site, tmp_path: Path) -> None:
    site.files["/a.png"], site.etags["/a.png"] = picture(), '"1"'
    kept = fetch_url(f"{site.url}/a.png")
    kept.write_bytes(b"damaged")
    assert fetch_url(f"{site.url}/a.png").read_bytes() == picture()
    kept.write_bytes(b"damaged")
    with pytest.raises(MachineError, match="not in the cache"):
        fetch_url(f"{site.url}/a.png", offline=True)


def test_archives_are_unpacked(site: Site, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("in/one.png", picture())
        archive.writestr("notes.txt", "x")
    site.files["/set.zip"] = stream.getvalue()
    found = collect(tmp_path, f"{site.url}/set.zip")
    assert [image.file for image in found.images] == ["in/one.png"]
    assert len(found.skipped) == 1


def test_offline_takes_what_is_cached(site: Site, tmp_path: Path) -> None:
    site.files["/a.png"] = picture()
    with pytest.raises(MachineError, match="not in the cache"):
        collect(tmp_path, f"{site.url}/a.png", offline=True)
    online = collect(tmp_path, f"{site.url}/a.png")
    count = len(site.seen)
    assert collect(tmp_path, f"{site.url}/a.png", offline=True).digest() == online.digest()
    assert len(site.seen) == count


def test_lists_of_local_files_and_pages_are_refused(site: Site, tmp_path: Path) -> None:
    site.files["/list.txt"] = b"/etc/passwd\n"
    site.files["/page"] = b"<html>"
    for name in ("list.txt", "page"):
        with pytest.raises(UsageError, match="neither an image nor an archive"):
            collect(tmp_path, f"{site.url}/{name}")


def test_what_is_not_there_is_said(site: Site, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot fetch") as raised:
        collect(tmp_path, f"{site.url}/none.png")
    assert "404" in str(raised.value.why)


def test_a_redirect_to_a_private_address_is_not_followed(site: Site, tmp_path: Path) -> None:
    site.files["/secret.png"] = picture()
    site.redirects["/a.png"] = site.url.replace("127.0.0.1", "localhost") + "/secret.png"
    with pytest.raises(UsageError, match="redirect leads to localhost"):
        collect(tmp_path, f"{site.url}/a.png")
    assert [path for path, _ in site.seen] == ["/a.png"]
    site.redirects["/b.png"] = "/secret.png"  # of the host that the user named
    assert len(collect(tmp_path, f"{site.url}/b.png").images) == 1
    site.redirects["/c.png"] = "file:///etc/passwd"
    with pytest.raises((UsageError, MachineError)):
        collect(tmp_path, f"{site.url}/c.png")


def test_secrets_are_not_recorded(site: Site, tmp_path: Path) -> None:
    site.files["/a.png"] = picture()
    address = f"{site.url}/a.png?token=hunter2"
    collect(tmp_path, address)
    assert "hunter2" not in recorded_source(address)
    assert recorded_source(address) != recorded_source(address + "3")
    kept = [file.read_bytes() for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert not any(b"hunter2" in content for content in kept)
    with pytest.raises(UsageError, match="password in it") as raised:
        collect(tmp_path, "https://me:hunter2@example.org/a.png")
    assert "hunter2" not in str(raised.value)


def test_an_address_with_glob_characters_is_no_glob(site: Site, tmp_path: Path) -> None:
    site.files["/a%5B1%5D.png"] = picture()
    assert len(collect(tmp_path, f"{site.url}/a[1].png?b=*").images) == 1


def test_names_from_standard_input_make_a_list_with_a_name_of_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.png").write_bytes(picture())
    first = save_names(["one.png\n", "\n"])
    assert save_names(["one.png"]) == first
    assert save_names(["two.png"]) != first
    assert [image.file for image in collect(tmp_path, str(first)).images] == ["one.png"]
    with pytest.raises(UsageError, match="standard input"):
        save_names(["\n"])


def test_an_image_on_the_standard_input_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match="not a list of names") as raised:
        save_names(picture().decode("latin-1").splitlines(keepends=True))
    assert "NUL" in str(raised.value.why)
    with pytest.raises(UsageError, match="not UTF-8"):
        save_names(["\udce9.png\n"])


def test_a_video_is_refused_with_the_command_that_takes_frames(tmp_path: Path) -> None:
    (tmp_path / "clip.MP4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(UsageError, match="is a video") as raised:
        collect(tmp_path, str(tmp_path / "clip.MP4"))
    assert "ffmpeg" in str(raised.value.hint)
