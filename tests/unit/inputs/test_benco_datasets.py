"""The layouts of manipulation localization's data sets: pairs by name, nothing lost, nothing shifted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.errors import UsageError
from orchestrator.inputs.benco_datasets import NEGATIVE, Sample, read_data_set, read_tp_gt
from orchestrator.inputs.collect import collect_inputs


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3)).save(path)
    return path


@pytest.fixture
def tp_gt(tmp_path: Path) -> Path:
    """Names that upstream's pairing by order would mix up."""
    folder = tmp_path / "casia"
    for name in ("a.jpg", "a_1.jpg", "b.png", "c.jpg", "lonely.jpg"):
        picture(folder / "Tp" / name)
    for name in ("a_gt.png", "a_1_gt.png", "b.png", "c_mask.png", "stray.png"):
        picture(folder / "Gt" / name)
    (folder / "Gt" / "Thumbs.db").write_text("x")
    return folder


def test_pairs_go_by_name(tp_gt: Path) -> None:
    read = read_tp_gt(tp_gt)
    pairs = {sample.image.name: sample.mask.name if isinstance(sample.mask, Path) else None for sample in read.samples}
    assert pairs == {
        "a.jpg": "a_gt.png", "a_1.jpg": "a_1_gt.png", "b.png": "b.png", "c.jpg": "c_mask.png", "lonely.jpg": None,
    }  # fmt: skip
    assert read.notes == (
        f"{tp_gt}: 1 of 5 images of Tp have no mask of their name in Gt",
        f"{tp_gt}: masks are paired by name; by sort order 2 images would get another mask",
    )


def test_a_tidy_data_set_needs_no_note(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "Tp" / f"{name}.jpg")
        picture(tmp_path / "Gt" / f"{name}_gt.png")
    assert read_tp_gt(tmp_path).notes == ()


def test_json_data_sets(tp_gt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "one.jpg"), picture(tmp_path / "mask.png"), picture(tmp_path / "elsewhere" / "two.jpg")
    monkeypatch.chdir(tmp_path / "elsewhere")
    listed = tmp_path / "set.json"
    listed.write_text(json.dumps([["one.jpg", "mask.png"], ["two.jpg", NEGATIVE], [str(tp_gt / "x.jpg"), None]]))
    pairs = (
        Sample(tmp_path / "one.jpg", tmp_path / "mask.png"),
        Sample(tmp_path / "elsewhere" / "two.jpg", NEGATIVE),
        Sample(tp_gt / "x.jpg", None),
    )
    assert read_data_set(listed).samples == pairs
    both = tmp_path / "both.json"
    both.write_text(json.dumps([["ManiDataset", "casia"], ["JsonDataset", "set.json"]]))
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"CASIA": "casia", "others": "set.json"}))
    read = read_data_set(named)
    assert [sample.data_set for sample in read.samples] == ["CASIA"] * (len(read.samples) - 3) + ["others"] * 3
    unnamed = tuple(replace(sample, data_set=None) for sample in read.samples)
    assert read_data_set(both) == replace(read, samples=unnamed)
    assert read_data_set(both).samples == (*read_tp_gt(tp_gt).samples, *pairs)
    assert len(read_data_set(both).notes) == 2


@pytest.mark.parametrize("content", [[], {}, 3, "x", [1], [["a"]], [["a", 1]], {"a": 1}, [["a", "b", "c"]]])
def test_other_json_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="as a list of images"):
        collect_inputs([str(path)], tmp_path / "unpacked")


def test_broken_and_missing_data_sets_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "wrong.json").write_text('{"CASIA": "nowhere"}')
    (tmp_path / "deep.json").write_text("[" * 3000)
    (tmp_path / "deeper.json").write_text('{"CASIA": "deep.json"}')
    (tmp_path / "itself.json").write_text('{"CASIA": "itself.json"}')
    (tmp_path / "long.json").write_text(json.dumps({"CASIA": "x" * 300}))
    for name, words in (
        ("broken.json", "is not JSON"),
        ("wrong.json", "nowhere is not a data set"),
        ("deep.json", "is not JSON"),
        ("deeper.json", "cannot read .*deep.json"),
        ("itself.json", "contains itself"),
        ("long.json", "cannot read .*xxx"),
    ):
        with pytest.raises(UsageError, match=words):
            collect_inputs([str(tmp_path / name)], tmp_path / "unpacked")


def test_a_name_like_a_kind_of_data_set_without_a_path_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('[["ManiDataset", null]]')
    (image,) = collect_inputs([str(tmp_path / "odd.json")], tmp_path / "unpacked").images
    assert image.error is not None
    assert "no such file" in image.error


def test_a_name_that_no_file_can_have_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('[["\\ud800.png", "Negative"], ["\\u0000.png", null]]')
    images = collect_inputs([str(tmp_path / "odd.json")], tmp_path / "unpacked").images
    assert [image.error for image in images] == ["listed in odd.json, but there is no such file"] * 2
    assert images[0].file == "\\ud800.png"


def test_a_data_set_as_images(tp_gt: Path, tmp_path: Path) -> None:
    inputs = collect_inputs([str(tp_gt)], tmp_path / "unpacked")
    assert [image.file for image in inputs.images] == ["a.jpg", "a_1.jpg", "b.png", "c.jpg", "lonely.jpg"]
    assert [image.truth for image in inputs.images] == [
        *(str(tp_gt / "Gt" / name) for name in ("a_gt.png", "a_1_gt.png", "b.png", "c_mask.png")), None
    ]  # fmt: skip
    assert inputs.notes[0] == f"{tp_gt} is a data set: its images are those in Tp, their masks those in Gt"
    assert len(inputs.notes) == 3


def test_listed_images_that_are_missing_are_accounted_for(tmp_path: Path) -> None:
    picture(tmp_path / "one.jpg")
    (tmp_path / "set.json").write_text(json.dumps([["one.jpg", NEGATIVE], ["gone.jpg", NEGATIVE]]))
    inputs = collect_inputs([str(tmp_path / "set.json")], tmp_path / "unpacked")
    assert [(image.file, image.error, image.truth) for image in inputs.images] == [
        ("one.jpg", None, NEGATIVE),
        ("gone.jpg", "listed in set.json, but there is no such file", NEGATIVE),
    ]
