"""Images from folders, files, globs and lists: one order, one name each, and nothing left out in silence."""

from __future__ import annotations

import json
import os
import socket
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.inputs.collect import InputSet, collect_inputs, read_inputs
from orchestrator.inputs.folders import SkippedFile
from orchestrator.system.files import write_json
from tests.unit.conftest import MakePhoto


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def collect(folder: Path, *sources: Path | str) -> InputSet:
    return collect_inputs([str(source) for source in sources], folder / "unpacked")


def files(inputs: InputSet) -> list[str]:
    return [image.file for image in inputs.images]


def errors(inputs: InputSet) -> dict[str, str | None]:
    return {image.file: image.error for image in inputs.images if image.error}


def skipped(inputs: InputSet) -> dict[str, str]:
    return {one.file: one.reason for one in inputs.skipped}


def test_a_folder_is_listed_in_order_with_every_image_extension_in_any_case(tmp_path: Path, photo: MakePhoto) -> None:
    photos = tmp_path / "photos"
    names = ["a.jpg", "b/2.JPEG", "b/10.png", "B.PNG", "c.webp", "d.bmp", "e.Tif", "f.TIFF", "a/same.jpg", "b/same.jpg"]
    for name in names:
        photo(photos / name)
    inputs = collect(tmp_path, photos)
    assert files(inputs) == sorted(names, key=lambda name: name.split("/"))
    assert [image.index for image in inputs.images] == list(range(len(names)))
    assert [image.image_id for image in inputs.images] == list(range(1, len(names) + 1))
    assert inputs.roots == (photos,)
    assert inputs.skipped == ()
    for image in inputs.images:
        state = inputs.locate(image).stat()
        assert inputs.locate(image) == photos / image.file
        assert (image.size, image.mtime_ns, image.path) == (state.st_size, state.st_mtime_ns, f"0/{image.file}")


def test_what_is_no_image_is_accounted_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "notes.md", "README", ".hidden.jpg", ".thumbs/a.jpg", "__MACOSX/b.jpg", "x.jpg.txt")
    inputs = collect(tmp_path, tmp_path)
    assert files(inputs) == ["a.jpg"]
    assert skipped(inputs) == {
        "notes.md": "not an image: .md",
        "README": "not an image: no extension",
        "x.jpg.txt": "not an image: .txt",
        ".hidden.jpg": "hidden",
        ".thumbs/a.jpg": "hidden",
        "__MACOSX/b.jpg": "hidden",
    }


def test_no_images_is_an_error_that_says_what_was_met(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images in") as caught:
        collect(tmp_path, tmp_path / "empty")
    assert "no file was found" in str(caught.value.why)
    touch(tmp_path / "other", "1.md", "2.md", "3.md", "4.md")
    with pytest.raises(UsageError) as caught:
        collect(tmp_path, tmp_path / "other")
    assert "4 files skipped: 1.md, 2.md, 3.md, …" in str(caught.value.why)


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    for missing in (tmp_path / "none", "~nosuchuserofthismachine/x", "n" * 300, tmp_path / "a.jpg" / "b"):
        with pytest.raises(UsageError):
            collect(tmp_path, tmp_path / "a.jpg", missing)


def test_a_named_file_needs_no_image_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "frame.raw", "~$odd.jpg")
    assert files(collect(tmp_path, tmp_path / "frame.raw")) == ["frame.raw"]
    monkeypatch.chdir(tmp_path)
    assert files(collect(tmp_path, "~$odd.jpg")) == ["~$odd.jpg"]


@pytest.mark.parametrize("name", ["with space.jpg", "äöü.jpg", "猫 🐈.png", "new\nline.jpg", "quote'\".jpg", "[1].jpg"])
def test_odd_names_stay_as_they_are(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"in/{name}", "in/z.jpg")
    assert set(files(collect(tmp_path, tmp_path / "in"))) == {name, "z.jpg"}
    inputs = collect(tmp_path, tmp_path / "in" / name)
    assert files(inputs) == [name]
    assert inputs.locate(inputs.images[0]).is_file()


def test_names_that_are_no_utf8_are_escaped_and_still_found(tmp_path: Path) -> None:
    folder = os.fsencode(touch(tmp_path / "in", r"caf\xe9.jpg"))
    for name in (b"caf\xe9.jpg", b"caf\xea.jpg"):
        with open(os.path.join(folder, name), "wb") as stream:
            stream.write(name)
    inputs = collect(tmp_path, tmp_path / "in")
    assert sorted(files(inputs)) == [r"caf\xe9.jpg", r"caf\xe9~2.jpg", r"caf\xea.jpg"]
    assert len({inputs.locate(image).read_bytes() for image in inputs.images}) == 3
    write_json(tmp_path / "order.json", [image.path for image in inputs.images])
    assert json.loads((tmp_path / "order.json").read_text("utf-8")) == [image.path for image in inputs.images]


def test_a_link_out_of_the_folder_is_skipped_and_nothing_of_its_target_is_mounted(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/.store/c.jpg", "elsewhere/b.jpg", "elsewhere/secret")
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "in" / "c.jpg").symlink_to(".store/c.jpg")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "secret.jpg").symlink_to(tmp_path / "elsewhere" / "secret")
    (tmp_path / "in" / "gone.jpg").symlink_to("/nowhere/at/all.jpg")
    (tmp_path / "in" / "round.jpg").symlink_to("round.jpg")
    inputs = collect(tmp_path, tmp_path / "in")
    assert files(inputs) == ["a.jpg", "c.jpg", "gone.jpg", "round.jpg"]
    assert errors(inputs) == {
        "gone.jpg": "No such file or directory",
        "round.jpg": "Too many levels of symbolic links",
    }
    outside = "a link that leads out of the folders named (--follow-links follows it)"
    assert skipped(inputs) == {
        ".store/c.jpg": "hidden",
        **dict.fromkeys(["b.jpg", "out", "secret.jpg"], outside),
    }
    assert inputs.roots == (tmp_path / "in",)
    assert [image.path for image in inputs.images] == ["0/a.jpg", "0/.store/c.jpg", "", ""]
    assert inputs.notes == ()


def test_followed_links_stage_their_targets_and_mount_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg", "elsewhere/sub/c.jpg", "elsewhere/secret")
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):  # the second time as a resumed run does
        inputs = collect_inputs([str(tmp_path / "in")], tmp_path / "run" / "unpacked", follow_links=True)
        assert files(inputs) == ["a.jpg", "b.jpg", "out/b.jpg", "out/sub/c.jpg"]
        assert skipped(inputs) == {"out/secret": "not an image: no extension"}
        staged = tmp_path / "run" / "unpacked" / "links"
        assert inputs.roots == (tmp_path / "in", staged)
        assert len(list(staged.iterdir())) == 3
        (note,) = inputs.notes
        assert f"{tmp_path / 'elsewhere'}, {tmp_path / 'elsewhere' / 'sub'}" in note
        assert "3 files" in note
        assert "--follow-links" in note
    for image in inputs.images:
        state = (tmp_path / "in" / image.file).stat()
        assert inputs.locate(image).stat().st_mtime_ns == state.st_mtime_ns == image.mtime_ns


def test_links_between_named_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/b.jpg")
    (tmp_path / "one" / "b.jpg").symlink_to(tmp_path / "two" / "b.jpg")
    (tmp_path / "one" / "two").symlink_to(tmp_path / "two")
    inputs = collect(tmp_path, tmp_path / "one", tmp_path / "two")
    assert files(inputs) == ["one/a.jpg", "one/b.jpg", "two/b.jpg"]
    assert skipped(inputs) == {"two": "a link to a folder that is listed"}
    assert inputs.roots == (tmp_path / "one", tmp_path / "two")


def test_a_link_that_the_user_named_is_followed_and_only_its_file_is_staged(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg", "elsewhere/secret")
    (tmp_path / "in" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "l.txt").write_text("in/link.jpg\n")
    for source in (tmp_path / "in" / "link.jpg", tmp_path / "l.txt"):
        inputs = collect(tmp_path, source)
        assert files(inputs) == ["link.jpg"]
        assert inputs.roots == (tmp_path / "unpacked" / "links",)
        assert inputs.locate(inputs.images[0]).read_bytes() == b"x"
        assert str(tmp_path / "elsewhere") in inputs.notes[0]


def test_links_of_a_coco_file_that_lead_outside_fail_with_that_reason(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "elsewhere")
    document = {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "sub/b.jpg"}], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(document))
    inputs = collect_inputs([str(tmp_path / "truth.json")], tmp_path / "unpacked", tmp_path / "in")
    assert list(errors(inputs)) == ["sub/b.jpg"]
    assert "leads out of the folders named" in str(inputs.images[1].error)
    assert inputs.roots == (tmp_path / "in",)


@pytest.mark.parametrize("source", ["photos", "photos/**", "photos/**/*.jpg"])
def test_links_that_lead_back_give_every_image_once(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/sub/b.jpg", "other/c.jpg")
    (tmp_path / "photos" / "sub" / "up").symlink_to("..")
    (tmp_path / "photos" / "sub" / "upup").symlink_to("../..")
    (tmp_path / "photos" / "round").symlink_to(".")
    inputs = collect(tmp_path, tmp_path / source)
    assert files(inputs) == ["a.jpg", "sub/b.jpg"]
    assert set(skipped(inputs)) == {"round", "sub/up", "sub/upup"}
    followed = collect_inputs([str(tmp_path / source)], tmp_path / "unpacked", follow_links=True)
    assert files(followed) == ["a.jpg", "sub/b.jpg", "sub/upup/other/c.jpg"]
    assert followed.roots == (tmp_path / "photos", tmp_path / "unpacked" / "links")


def test_only_links_and_no_image_names_the_option(tmp_path: Path) -> None:
    touch(tmp_path, "blobs/1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").symlink_to("../blobs/1")
    with pytest.raises(UsageError, match="no images in") as caught:
        collect(tmp_path, tmp_path / "in")
    assert "--follow-links" in str(caught.value.hint)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/real/deep/a.jpg", "outside/b.jpg", "in/first/c.jpg")
    (tmp_path / "in" / "real" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "also").symlink_to(tmp_path / "in" / "real")
    (tmp_path / "in" / "first" / "link").symlink_to(tmp_path / "in" / "real" / "deep")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "outside")
    inputs = collect_inputs([str(tmp_path / "in")], tmp_path / "unpacked", follow_links=True)
    assert files(inputs) == ["first/c.jpg", "out/b.jpg", "real/deep/a.jpg"], "the real folder gives the name"
    listed = "a link to a folder that is listed"
    assert skipped(inputs) == {"also": listed, "first/link": listed, "real/loop": listed}


def test_a_link_as_the_source_itself(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to("real")
    inputs = collect(tmp_path, tmp_path / "link")
    assert files(inputs) == ["a.jpg"]
    assert inputs.locate(inputs.images[0]) == tmp_path / "real" / "a.jpg"


def test_what_is_no_regular_file_is_skipped_without_being_opened(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        for source in (tmp_path, tmp_path / "*.jpg"):
            inputs = collect(tmp_path, source)
            assert files(inputs) == ["a.jpg"]
            assert skipped(inputs) == dict.fromkeys(["pipe.jpg", "link.jpg", "socket.jpg"], "not a regular file")
    assert errors(collect(tmp_path, tmp_path / "pipe.jpg")) == {"pipe.jpg": "not a regular file"}, "it was named"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_accounted_for(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/secret/b.jpg")
    (tmp_path / "in" / "secret").chmod(0)
    try:
        assert skipped(collect(tmp_path, tmp_path / "in")) == {"secret": "cannot be read: Permission denied"}
    finally:
        (tmp_path / "in" / "secret").chmod(0o700)


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/b.png", "in/sub/c.jpg", "in/sub/d.txt", "in/[x]/e.jpg", "in/.h.jpg")
    assert files(collect(tmp_path, tmp_path / "in" / "*.jpg")) == ["a.jpg"]
    assert files(collect(tmp_path, tmp_path / "in" / "**" / "*.jpg")) == ["[x]/e.jpg", "a.jpg", "sub/c.jpg"]
    everything = collect(tmp_path, tmp_path / "in" / "**")
    assert files(everything) == ["[x]/e.jpg", "a.jpg", "b.png", "sub/c.jpg"]
    assert skipped(everything) == {"sub/d.txt": "not an image: .txt"}
    flat = collect(tmp_path, tmp_path / "in" / "*")
    assert skipped(flat) == dict.fromkeys(["[x]", "sub"], "a folder: give it as a source, or use **")
    with pytest.raises(UsageError, match="no file matches"):
        collect(tmp_path, tmp_path / "in", tmp_path / "in" / "*.webp")


def test_relative_sources_never_lead_names_out_of_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "photos/a.jpg", "here/b.jpg")
    monkeypatch.chdir(tmp_path / "here")
    assert files(collect(tmp_path, "../photos", ".")) == ["photos/a.jpg", "here/b.jpg"]
    assert files(collect(tmp_path, "../photos/*.jpg", "b.jpg")) == ["photos/a.jpg", "here/b.jpg"]
    assert files(collect(tmp_path, "*.jpg")) == ["b.jpg"]
    assert files(collect(tmp_path, "../photos/a.jpg", "../here/b.jpg")) == ["photos/a.jpg", "here/b.jpg"]
    assert files(collect(tmp_path, "..")) == ["here/b.jpg", "photos/a.jpg"]


def test_several_sources_keep_their_order_and_equal_base_names_apart(tmp_path: Path) -> None:
    touch(tmp_path, "z/same.jpg", "a/same.jpg", "single.jpg")
    inputs = collect(tmp_path, tmp_path / "z", tmp_path / "a", tmp_path / "single.jpg", tmp_path / "z" / "same.jpg")
    assert files(inputs) == ["z/same.jpg", "a/same.jpg", "single.jpg"]
    assert inputs.skipped == (SkippedFile("z/same.jpg", "named twice"),)
    assert inputs.roots == (tmp_path,)


def test_more_folders_than_can_be_mounted_share_one(tmp_path: Path) -> None:
    for number in range(40):
        touch(tmp_path, f"{number:02}/a.jpg")
    inputs = collect(tmp_path, *sorted(tmp_path.glob("*/a.jpg")))
    assert inputs.roots == (tmp_path,)
    assert [inputs.locate(image) for image in inputs.images] == sorted(tmp_path.glob("*/a.jpg"))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newline: str, mark: str) -> None:
    touch(tmp_path, "lists/near.jpg", "photos/a b.jpg", "here/from-here.jpg", "photos/c\u2028d.jpg")
    lines = ["near.jpg", "", "# a comment", "  ../photos/a b.jpg", "from-here.jpg", str(tmp_path / "none.jpg"),
             "../photos", "../photos/c\u2028d.jpg", "near.jpg"]  # fmt: skip
    (tmp_path / "lists" / "l.txt").write_bytes((mark + newline.join(lines)).encode())
    monkeypatch.chdir(tmp_path / "here")
    inputs = collect(tmp_path, tmp_path / "lists" / "l.txt")
    assert files(inputs) == [
        "lists/near.jpg", "photos/a b.jpg", "here/from-here.jpg", "none.jpg", "photos", "photos/c\u2028d.jpg"
    ]  # fmt: skip
    assert errors(inputs) == dict.fromkeys(["none.jpg", "photos"], "listed in l.txt, but there is no such file")
    assert skipped(inputs) == {"lists/near.jpg": "named twice"}


def test_a_list_of_missing_files_mounts_nothing(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("/none/a.jpg\n/none/b.jpg\n")
    inputs = collect(tmp_path, tmp_path / "l.txt")
    assert inputs.roots == ()
    assert [(image.file, image.path) for image in inputs.images] == [("a.jpg", ""), ("b.jpg", "")]


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a list of files"):
        collect(tmp_path, tmp_path / "l.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UsageError, match="no images in"):
        collect(tmp_path, tmp_path / "empty.txt")


def test_the_digest_follows_names_sizes_and_order_alone(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "one/b.jpg", "two/a.jpg", "two/b.jpg")
    one, two = collect(tmp_path, tmp_path / "one"), collect(tmp_path, tmp_path / "two")
    assert one.digest() == two.digest()
    os.utime(tmp_path / "two" / "a.jpg", (1, 1))
    assert collect(tmp_path, tmp_path / "two").digest() == one.digest()
    (tmp_path / "two" / "a.jpg").write_bytes(b"xx")
    assert collect(tmp_path, tmp_path / "two").digest() != one.digest()
    (tmp_path / "one" / "b.jpg").rename(tmp_path / "one" / "c.jpg")
    assert collect(tmp_path, tmp_path / "one").digest() != two.digest()
    swapped = collect(tmp_path, tmp_path / "one" / "c.jpg", tmp_path / "one" / "a.jpg")
    assert swapped.digest() != collect(tmp_path, tmp_path / "one").digest()


def test_inputs_survive_their_file(tmp_path: Path) -> None:
    touch(tmp_path / "in", "ä.jpg", "b.jpg")
    inputs = collect(tmp_path, tmp_path / "in")
    fields = ("index", "file", "path", "image_id", "size", "mtime_ns", "error")
    lines = [json.dumps({name: getattr(image, name) for name in fields}) for image in inputs.images]
    (tmp_path / "inputs.jsonl").write_text("\n".join(lines))
    assert tuple(read_inputs(tmp_path / "inputs.jsonl")) == inputs.images


def test_a_folder_is_in_the_order_of_its_names_parts_wherever_links_lead(tmp_path: Path) -> None:
    names = ["a.jpg", "a/z.jpg", "a-b/c.jpg", "a/b/y.jpg", "b.jpg", "b/c/d.jpg", "b/c.jpg", "b/cc.jpg", "ab/x.jpg"]
    touch(tmp_path / "in", *names)
    touch(tmp_path / "outside", "1.jpg", "z/2.jpg")
    linked = ["a/link", "b/cb", "0", "zz"]
    for number, link in enumerate(linked):
        touch(tmp_path / f"outside{number}", "1.jpg", "z/2.jpg")
        (tmp_path / "in" / link).symlink_to(tmp_path / f"outside{number}")
    everything = [*names, *(f"{link}/{name}" for link in linked for name in ("1.jpg", "z/2.jpg"))]
    inputs = collect_inputs([str(tmp_path / "in")], tmp_path / "unpacked", follow_links=True)
    assert files(inputs) == sorted(everything, key=lambda name: name.split("/"))


def test_a_name_made_up_for_odd_bytes_is_never_given_twice(tmp_path: Path) -> None:
    folder = os.fsencode(touch(tmp_path / "in", r"a\xff.jpg", r"a\xff~2.jpg"))
    with open(os.path.join(folder, b"a\xff.jpg"), "wb") as stream:
        stream.write(b"odd")
    inputs = collect(tmp_path, tmp_path / "in")
    assert files(inputs) == [r"a\xff.jpg", r"a\xff~2.jpg", r"a\xff~3.jpg"]
    assert len({inputs.locate(image) for image in inputs.images}) == 3


def test_a_root_named_after_a_part_of_it_is_mounted_whole(tmp_path: Path) -> None:
    touch(tmp_path, "in/deep/a.jpg", "in/deep/b.jpg")
    inputs = collect(tmp_path, tmp_path / "in" / "deep" / "b.jpg", tmp_path / "in")
    assert inputs.roots == (tmp_path / "in",)
    assert [image.path for image in inputs.images] == ["0/deep/b.jpg", "0/deep/a.jpg"]


def test_entries_of_a_list_that_lead_nowhere_fail_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    lines = ["a.jpg", "n" * 300, "a.jpg/b", "round.jpg", "nul\0.jpg"]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    inputs = collect(tmp_path, tmp_path / "l.txt")
    missing = "listed in l.txt, but there is no such file"
    assert [image.error for image in inputs.images] == [None, missing, missing, missing, missing]


def test_an_image_that_could_not_be_unpacked_has_no_size_and_no_time(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.jpg", b"whole")
        archive.writestr("b.jpg", b"damaged")
    path = tmp_path / "in.zip"
    path.write_bytes(path.read_bytes().replace(b"damaged", b"changed", 1))
    inputs = collect(tmp_path, path)
    assert [image.size for image in inputs.images] == [5, 0]
    assert str(errors(inputs)["b.jpg"]).startswith("cannot be unpacked")
    assert inputs.images[1].mtime_ns == 0


def test_what_was_unpacked_is_unpacked_again_where_its_record_is_damaged(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a.jpg", b"whole")
    collect(tmp_path, tmp_path / "in.zip")
    (record,) = tmp_path.rglob("unpacked.json")
    record.write_bytes(record.read_bytes()[:20])
    assert [image.size for image in collect(tmp_path, tmp_path / "in.zip").images] == [5]


def test_an_empty_name_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="the name of images is empty"):
        collect_inputs([""], tmp_path / "unpacked")
