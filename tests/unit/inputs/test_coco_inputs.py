"""Images of COCO annotation files: their own ids, their folder found, missing ones kept, nothing outside of it read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.inputs.collect import InputSet, collect_inputs
from orchestrator.inputs.image_ids import ImageId
from orchestrator.inputs.manifest import read_inputs
from tests.unit.conftest import MakePhoto


def coco(path: Path, *images: tuple[Any, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": [{"id": key, "file_name": name} for key, name in images]}))
    return path


def collect(*sources: Path, root: Path | None = None) -> InputSet:
    return collect_inputs([str(source) for source in sources], sources[0].parent / "unpacked", root)


def ids(inputs: InputSet) -> dict[str, ImageId]:
    return {image.file: image.image_id for image in inputs.images}


def test_order_and_ids_are_the_files_own_and_missing_images_stay(tmp_path: Path, photo: MakePhoto) -> None:
    photo(tmp_path / "images" / "sub" / "b.jpg")
    photo(tmp_path / "images" / "a.jpg")
    inputs = collect(coco(tmp_path / "val.json", (900, "sub/b.jpg"), (5, "gone.jpg"), (-1, "a.jpg")))
    assert list(ids(inputs).items()) == [("sub/b.jpg", 900), ("gone.jpg", 5), ("a.jpg", -1)]
    assert [image.error for image in inputs.images] == [
        None, f"listed in val.json, but not in {tmp_path / 'images'}", None
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("val.json", "."),
        ("val.json", "images"),
        ("val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images"),
        ("annotations/annotations_test.json", "images/test"),
        ("annotations/x.json", "."),
    ],
)
def test_the_folder_of_the_images_is_found(tmp_path: Path, photo: MakePhoto, annotations: str, images: str) -> None:
    photo(tmp_path / images / "b.jpg")
    inputs = collect(coco(tmp_path / annotations, (1, "gone.jpg"), (2, "b.jpg")))
    assert [image.error is None for image in inputs.images] == [False, True]
    assert inputs.locate(inputs.images[1]) == tmp_path / images / "b.jpg"


def test_images_that_are_nowhere_need_a_root(tmp_path: Path, photo: MakePhoto) -> None:
    photo(tmp_path / "far" / "away" / "a.jpg")
    source = coco(tmp_path / "val.json", (1, "a.jpg"))
    with pytest.raises(UsageError, match="cannot find the images") as caught:
        collect(source)
    assert caught.value.hint == f"orch run --images {source} --image-root FOLDER"
    assert list(ids(collect(source, root=tmp_path / "far" / "away"))) == ["a.jpg"]
    assert list(ids(collect(source, root=tmp_path / "far" / ".." / "far" / "away"))) == ["a.jpg"]


@pytest.mark.parametrize("name", ["../secret.jpg", "sub/../../secret.jpg", "/etc/passwd"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, photo: MakePhoto, name: str) -> None:
    photo(tmp_path / "secret.jpg")
    photo(tmp_path / "set" / "a.jpg")
    with pytest.raises(UsageError, match="leads out of the image folder"):
        collect(coco(tmp_path / "set" / "val.json", (1, "a.jpg"), (2, name)))


ANY_IDS = ["0000001_02999_d_0000005", (1 << 63) + 5, 7, "7", -(1 << 70), 2.5, 'a"\n\u00e9\ud800', ""]


def test_ids_are_whatever_json_can_hold(tmp_path: Path, photo: MakePhoto) -> None:
    names = [f"{n}.jpg" for n in range(len(ANY_IDS))]
    for name in names:
        photo(tmp_path / name)
    inputs = collect(coco(tmp_path / "val.json", *zip(ANY_IDS, names, strict=True)))
    inputs.images.save(tmp_path / "inputs.jsonl")
    for images in (inputs.images, read_inputs(tmp_path / "inputs.jsonl")):
        assert [(image.image_id, type(image.image_id)) for image in images] == [(key, type(key)) for key in ANY_IDS]


def test_a_text_that_is_a_number_takes_no_number(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("set/a.jpg", "set/b.jpg", "more/c.jpg", "more/d.jpg"):
        photo(tmp_path / name)
    source = coco(tmp_path / "set" / "val.json", ("3", "a.jpg"), (4.0, "b.jpg"))
    assert ids(collect(source, tmp_path / "more")) == {
        "set/a.jpg": "3", "set/b.jpg": 4.0, "more/c.jpg": 3, "more/d.jpg": 5
    }  # fmt: skip


@pytest.mark.parametrize("image_id", ["null", "true", "[1]", "{}", "NaN", "1e999"])
def test_a_value_that_is_no_id_is_named(tmp_path: Path, image_id: str) -> None:
    (tmp_path / "x.json").write_text(
        f'{{"images": [{{"id": 1, "file_name": "a"}}, {{"id": {image_id}, "file_name": "b"}}]}}'
    )
    with pytest.raises(UsageError, match="is not a COCO annotation file") as caught:
        collect(tmp_path / "x.json")
    assert str(caught.value.why).startswith("images[1] has the id ")


@pytest.mark.parametrize(
    "text", ['{"images": 3}', '{"images": [{"id": 1}]}', '{"images": [{"id": null, "file_name": "a"}]}']
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UsageError, match="is not a COCO annotation file"):
        collect(tmp_path / "x.json")


def test_a_coco_file_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lists no images"):
        collect(coco(tmp_path / "x.json"))


def test_ids_stay_unique_beside_other_sources(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("set/a.jpg", "set/b.jpg", "more/c.jpg", "more/d.jpg"):
        photo(tmp_path / name)
    source = coco(tmp_path / "set" / "val.json", (4, "a.jpg"), (1, "b.jpg"))
    assert ids(collect(source, tmp_path / "more")) == {
        "set/a.jpg": 4, "set/b.jpg": 1, "more/c.jpg": 3, "more/d.jpg": 5
    }  # fmt: skip
    assert ids(collect(tmp_path / "more", source)) == {
        "more/c.jpg": 2, "more/d.jpg": 3, "set/a.jpg": 4, "set/b.jpg": 1
    }  # fmt: skip


def test_two_images_of_one_id_are_refused(tmp_path: Path, photo: MakePhoto) -> None:
    for name in ("one/a.jpg", "two/b.jpg"):
        photo(tmp_path / name)
    one = coco(tmp_path / "one" / "val.json", (1, "a.jpg"))
    two = coco(tmp_path / "two" / "val.json", (1, "b.jpg"))
    with pytest.raises(UsageError, match=r"two images have the id 1: one/a\.jpg and two/b\.jpg"):
        collect(one, two)
    assert ids(collect(one, one)) == {"a.jpg": 1}
