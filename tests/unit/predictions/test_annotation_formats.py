"""YOLO, LabelMe, CVAT, VOC and Parquet: read back by other code, losses named, no file outside the folder."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import hotcoco
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from orchestrator.cli import main
from orchestrator.errors import MachineError, OrchError, PredictionsError, UsageError
from orchestrator.predictions import export_parquet, export_predictions, get_format, rle
from orchestrator.predictions.formats import FORMATS_WRITTEN
from orchestrator.predictions.output_names import assign_paths, path_below
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import FILES, META, Arrays, sample_arrays, save
from tests.unit.predictions.test_names import FILES as ANY_FILES

Captured = pytest.CaptureFixture[str]
FOLDERS = ("yolo", "labelme", "voc")
WITHOUT_PYARROW = "pyarrow is not installed: 165 MB that CI does without; by hand: docs/verification.md"


def with_masks(masks: list[NDArray[np.bool_]]) -> Arrays:
    """The sample with other masks for its first instances."""
    arrays = sample_arrays()
    cuts = arrays["mask_offsets"]
    counts = [arrays["masks"][start:stop].tobytes() for start, stop in pairwise(cuts)]
    counts[: len(masks)] = [rle.encode(mask) for mask in masks]
    arrays["masks"] = np.frombuffer(b"".join(counts), np.uint8).copy()
    arrays["mask_offsets"] = np.cumsum([0, *map(len, counts)], dtype=np.int64)
    return arrays


def holed_and_parted() -> list[NDArray[np.bool_]]:
    """Two masks of the first image: one with a hole, one of two parts that touch at a corner."""
    holed, parted = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    holed[5:20, 10:50] = True
    holed[8:12, 20:30] = False
    parted[0:3, 0:4] = parted[3:9, 4:5] = True
    return [holed, parted]


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    return Predictions.load(save(with_masks(holed_and_parted()), tmp_path / "p.npz"))


def predictions_of(folder: Path, arrays: Arrays, files: list[str] | None = None, **meta: Any) -> Predictions:
    changed = {"meta": np.array(json.dumps(META | meta))}
    if files is not None:
        changed["image_file"] = np.array(files)
    return Predictions.load(save(arrays | changed, folder / "q.npz"))


def masks_of(predictions: Predictions, image: int) -> list[NDArray[np.bool_]]:
    rows = predictions.rows(image)
    return [predictions.mask(row) for row in range(rows.start, rows.stop)]


def fill(points: list[float], size: tuple[int, int]) -> NDArray[np.bool_]:
    return rle.decode(coco_mask.merge(coco_mask.frPyObjects([points], *size))["counts"], size)


def predicted(predictions: Predictions) -> Iterator[tuple[int, Any]]:
    return ((i, record) for i, record in enumerate(predictions) if not record["status"])


# YOLO


def test_yolo_polygons_are_the_masks(predictions: Predictions, tmp_path: Path) -> None:
    assert export_predictions(predictions, "yolo", tmp_path / "out") == [
        *("scores", "attributes", "image scores", "1 failed image")
    ]
    described = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert described["names"] == {0: "shirt", 1: "hat", 2: "bag"}
    assert described["category_ids"] == [0, 5, 7]
    written = sorted(str(path.relative_to(tmp_path / "out" / "labels")) for path in (tmp_path / "out").rglob("*.txt"))
    assert written == ["a.txt", "other/b.txt", "sub/b.txt"]
    for i, record in predicted(predictions):
        path = tmp_path / "out" / "labels" / PurePosixPath(record["image_file"]).with_suffix(".txt")
        lines = [line.split() for line in path.read_text().splitlines()]
        assert [described["category_ids"][int(line[0])] for line in lines] == record["classes"].tolist()
        height, width = record["image_size"]
        for line, mask in zip(lines, masks_of(predictions, i), strict=True):
            points = np.array(line[1:], float).reshape(-1, 2) * (width, height)
            np.testing.assert_array_equal(fill(points.ravel().tolist(), mask.shape), mask)


def test_yolo_boxes_are_read_by_another_library(predictions: Predictions, tmp_path: Path) -> None:
    export_predictions(predictions, "yolo", tmp_path / "out", boxes_only=True)
    for i, record in predicted(predictions):
        # This reader wants data.yaml beside the labels, and the images to know their size.
        labels = (tmp_path / "out" / "labels" / record["image_file"]).parent
        (labels / "data.yaml").write_bytes((tmp_path / "out" / "data.yaml").read_bytes())
        images = tmp_path / f"images{i}"
        images.mkdir()
        Image.new("L", record["image_size"][::-1]).save(images / PurePosixPath(record["image_file"]).name)
        read = hotcoco.COCO.from_yolo(str(labels), str(images)).dataset
        corners = np.array([one["bbox"] for one in read["annotations"]])
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(corners, record["boxes"], atol=1e-3)
        names = {one["id"]: one["name"] for one in read["categories"]}
        shown = [names[one["category_id"]] for one in read["annotations"]]
        assert shown == [predictions.category_names[number] for number in record["classes"].tolist()]


def test_yolo_boxes_end_at_the_image_and_empty_images_have_empty_files(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["boxes"][5] = (-10, -20, 1000, 32)
    arrays["status"][2], arrays["error"] = 0, np.array([""] * 4)
    export_predictions(predictions_of(tmp_path, arrays), "yolo", tmp_path / "out", boxes_only=True)
    assert (tmp_path / "out" / "labels" / "other" / "b.txt").read_text() == "2 0.5 0.25 1 0.5\n"
    assert (tmp_path / "out" / "labels" / "sub" / "c.txt").read_text() == ""


# LabelMe


def test_labelme_shapes_are_the_masks(predictions: Predictions, tmp_path: Path) -> None:
    export_predictions(predictions, "labelme", tmp_path / "out")
    kinds = []
    for i, record in predicted(predictions):
        written = json.loads((tmp_path / "out" / PurePosixPath(record["image_file"]).with_suffix(".json")).read_text())
        assert written["imagePath"] == PurePosixPath(record["image_file"]).name
        assert (written["imageHeight"], written["imageWidth"]) == record["image_size"]
        instances: dict[Any, NDArray[np.bool_]] = {}
        for number, shape in enumerate(written["shapes"]):
            kinds.append(shape["shape_type"])
            mask = np.zeros(record["image_size"], bool)
            if shape["shape_type"] == "mask":
                (x1, y1), (x2, y2) = shape["points"]
                picture = Image.open(io.BytesIO(base64.b64decode(shape["mask"])))
                mask[y1 : y2 + 1, x1 : x2 + 1] = np.array(picture).astype(bool)
            else:
                mask = fill(np.array(shape["points"]).ravel().tolist(), mask.shape)
            key = (shape["label"], shape["score"], shape["group_id"] or -number)
            instances[key] = instances.get(key, np.zeros_like(mask)) | mask
        names = [predictions.category_names[number] for number in record["classes"].tolist()]
        assert [key[:2] for key in instances] == list(zip(names, record["scores"].tolist(), strict=True))
        for found, mask in zip(instances.values(), masks_of(predictions, i), strict=True):
            np.testing.assert_array_equal(found, mask)
    assert kinds[:3] == ["mask", "polygon", "polygon"]


def test_labelme_has_rectangles_without_masks(predictions: Predictions, tmp_path: Path) -> None:
    export_predictions(predictions, "labelme", tmp_path / "out", boxes_only=True)
    shapes = json.loads((tmp_path / "out" / "a.json").read_text())["shapes"]
    assert [shape["points"] for shape in shapes] == predictions[0]["boxes"].reshape(2, 2, 2).tolist()
    assert {shape["shape_type"] for shape in shapes} == {"rectangle"}


# CVAT


def test_cvat_masks_are_the_masks(predictions: Predictions, tmp_path: Path) -> None:
    export_predictions(predictions, "cvat", tmp_path / "out.xml")
    root = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert [name.text for name in root.findall("meta/task/labels/label/name")] == ["shirt", "hat", "bag"]
    images = {image.get("name"): image for image in root.findall("image")}
    assert list(images) == [record["image_file"] for _, record in predicted(predictions)]
    for i, record in predicted(predictions):
        image = images[record["image_file"]]
        size = (int(image.get("height", 0)), int(image.get("width", 0)))
        assert size == record["image_size"]
        assert [np.float32(score.text) for score in image.findall("*/attribute")] == record["scores"].tolist()
        for element, mask in zip(image.findall("mask"), masks_of(predictions, i), strict=True):
            box = {key: int(element.get(key, "")) for key in ("left", "top", "width", "height")}
            runs = [int(run) for run in element.get("rle", "").split(",")]
            values = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(box["height"], box["width"])
            found = np.zeros(size, bool)
            found[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]] = values
            np.testing.assert_array_equal(found, mask)


def test_cvat_boxes_are_read_by_another_library(predictions: Predictions, tmp_path: Path) -> None:
    export_predictions(predictions, "cvat", tmp_path / "out.xml", boxes_only=True)
    check_read(hotcoco.COCO.from_cvat(str(tmp_path / "out.xml")).dataset, predictions, 1e-4)


def check_read(dataset: Any, predictions: Predictions, tolerance: float) -> None:
    """Compare what another library read with the boxes and names of the predicted images."""
    names = {one["id"]: one["name"] for one in dataset["categories"]}
    by_name = {image["file_name"]: image for image in dataset["images"]}
    for _, record in predicted(predictions):
        image = by_name[record["image_file"]]
        assert (image["height"], image["width"]) == record["image_size"]
        mine = [one for one in dataset["annotations"] if one["image_id"] == image["id"]]
        corners = np.array([one["bbox"] for one in mine], np.float64)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(corners, record["boxes"], atol=tolerance)
        expected = [predictions.category_names[number] for number in record["classes"].tolist()]
        assert [names[one["category_id"]] for one in mine] == expected


# Pascal VOC


def test_voc_boxes_count_from_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["boxes"][:2] = ((0, 0, 60, 40), (2.4, 3.6, 2.4, 3.6))
    predictions = predictions_of(tmp_path, arrays)
    export_predictions(predictions, "voc", tmp_path / "out", boxes_only=True)
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.xml"))
    assert written == ["Annotations/a.xml", "Annotations/other/b.xml", "Annotations/sub/b.xml"]
    assert (tmp_path / "out" / "ImageSets" / "Main" / "default.txt").read_text() == "a\nsub/b\nother/b\n"
    assert (tmp_path / "out" / "labelmap.txt").read_text() == "shirt:::\nhat:::\nbag:::\n"
    root = ElementTree.parse(tmp_path / "out" / "Annotations" / "a.xml").getroot()
    boxes = [[int(side.text or "") for side in box] for box in root.findall("object/bndbox")]
    assert boxes == [[1, 1, 60, 40], [3, 5, 3, 5]]
    assert [side.tag for side in root.findall("object/bndbox")[0]] == ["xmin", "ymin", "xmax", "ymax"]
    assert [name.text for name in root.findall("object/name")] == ["shirt", "hat"]
    assert [np.float32(score.text) for score in root.findall("object/score")] == predictions[0]["scores"].tolist()
    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["60", "40", "3"]


def test_voc_is_read_by_another_library(tmp_path: Path) -> None:
    predictions = predictions_of(tmp_path, sample_arrays(), ["a.jpg", "b.jpg", "c.png", "d.jpg"])
    export_predictions(predictions, "voc", tmp_path / "out", boxes_only=True)
    check_read(hotcoco.COCO.from_voc(str(tmp_path / "out")).dataset, predictions, 1.001)


# Parquet


def read_back(predictions: Predictions, rows: list[dict[str, Any]]) -> None:
    """Compare rows of the Parquet table with the predictions."""
    number = 0
    for i, record in enumerate(predictions):
        for row, mask in enumerate(masks_of(predictions, i)):
            read = rows[number]
            number += 1
            assert (read["image_file"], read["image_id"]) == (record["image_file"], record["image_id"])
            assert (read["image_height"], read["image_width"]) == record["image_size"]
            assert read["category_id"] == record["classes"][row]
            assert read["category"] == predictions.category_names[read["category_id"]]
            assert read["score"] == record["scores"][row]
            assert [read[side] for side in ("x1", "y1", "x2", "y2")] == record["boxes"][row].tolist()
            size = [int(read["image_height"]), int(read["image_width"])]
            decoded = hotcoco.mask.decode({"size": size, "counts": read["rle_counts"]})
            np.testing.assert_array_equal(decoded, mask)
            assert list(read["attributes"]) == record["attributes"][row].tolist()
    assert number == len(rows)


def test_parquet_is_what_the_predictions_are(
    predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason=WITHOUT_PYARROW)
    monkeypatch.setattr(export_parquet, "ROWS_AT_ONCE", 3)
    export_predictions(predictions, "parquet", tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    read_back(predictions, table.to_pylist())
    assert json.loads(table.schema.metadata[b"orch.meta"]) == META
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups > 1
    arrays = sample_arrays() | {"image_id": np.array(['"x"', "12", "13", "14"])}
    export_predictions(predictions_of(tmp_path, arrays), "parquet", tmp_path / "ids.parquet", boxes_only=True)
    table = parquet.read_table(tmp_path / "ids.parquet")
    assert table["image_id"].to_pylist()[:3] == ['"x"', '"x"', "12"]
    assert "rle_counts" not in table.column_names


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_columns_for_parquet(predictions: Predictions, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Without pyarrow: what it is given."""
    monkeypatch.setattr(export_parquet, "ROWS_AT_ONCE", rows)
    parts = list(export_parquet._read_columns(predictions))
    read_back(
        predictions,
        [dict(zip(part, row, strict=True)) for part in parts for row in zip(*part.values(), strict=True)],
    )
    assert all(part.keys() == export_parquet.COLUMNS.keys() for part in parts)


def test_parquet_without_pyarrow(predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError, match="pyarrow is not installed") as caught:
        export_predictions(predictions, "parquet", tmp_path / "out.parquet")
    assert caught.value.hint == "pip install pyarrow"
    assert not (tmp_path / "out.parquet").exists()


def test_parquet_refuses_names_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = predictions_of(tmp_path, sample_arrays(), ["a\udcff.jpg", *FILES[1:]])
    with pytest.raises(PredictionsError, match="Parquet cannot hold"):
        list(export_parquet._read_columns(predictions))
    with pytest.raises(PredictionsError, match="XML cannot hold"):
        export_predictions(predictions, "cvat", tmp_path / "out.xml")
    export_predictions(predictions, "yolo", tmp_path / "out")
    assert (tmp_path / "out" / "labels" / "a\udcff.txt").is_file()


# What formats cannot hold


def test_a_format_without_masks_refuses_them(predictions: Predictions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the format voc cannot hold masks") as caught:
        export_predictions(predictions, "voc", tmp_path / "out")
    assert "6 instances" in str(caught.value.why)
    assert "--boxes" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()
    lost = export_predictions(predictions, "voc", tmp_path / "out", boxes_only=True)
    assert lost == ["attributes", "image scores", "1 failed image"]


@pytest.mark.parametrize("name", ["fashionfail", "imdlbenco"])
def test_formats_of_masks_cannot_be_boxes(predictions: Predictions, tmp_path: Path, name: str) -> None:
    task = {"imdlbenco": "manipulation-localization"}.get(name, "instance-segmentation")
    chosen = predictions_of(tmp_path, sample_arrays(), task=task)
    with pytest.raises(UsageError, match="cannot be written without masks"):
        export_predictions(chosen, name, tmp_path / "out", boxes_only=True)
    arrays = {key: array for key, array in sample_arrays().items() if not key.startswith("mask")}
    with pytest.raises(OrchError, match=r"have no masks|mask pictures are missing"):
        export_predictions(predictions_of(tmp_path, arrays, task=task), name, tmp_path / "out")


@pytest.mark.parametrize("name", ["yolo", "labelme", "cvat"])
def test_empty_masks_are_counted(tmp_path: Path, name: str) -> None:
    predictions = predictions_of(tmp_path, with_masks([np.zeros((40, 60), bool)] * 2))
    lost = export_predictions(predictions, name, tmp_path / "out")
    assert "2 instances with an empty mask" in lost


@pytest.mark.parametrize("name", [*FORMATS_WRITTEN])
def test_only_coco_takes_annotations(predictions: Predictions, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="annotations") as caught:
        export_predictions(predictions, name, tmp_path / "out", tmp_path / "none.json")
    assert caught.value.message.startswith("cannot read" if name == "coco" else f"the format {name} cannot use")


@pytest.mark.parametrize("name", ["labelme", "cvat", "voc"])
def test_categories_of_one_name_are_refused_where_names_are_all(tmp_path: Path, name: str) -> None:
    categories = [{"id": 0, "name": "shirt"}, {"id": 5, "name": "shirt"}, {"id": 7, "name": "bag"}]
    predictions = predictions_of(tmp_path, sample_arrays(), categories=categories)
    with pytest.raises(PredictionsError, match="the categories 0 and 5 have the same name 'shirt'"):
        export_predictions(predictions, name, tmp_path / "out", boxes_only=True)
    export_predictions(predictions, "yolo", tmp_path / "yolo")


BROKEN_VALUES: dict[str, tuple[str, Any, Any, str]] = {
    "a category": ("classes", 3, 99, "category 99"),
    "a side": ("boxes", (1, 2), np.nan, "not finite"),
    "a score": ("scores", 1, np.inf, "not finite"),
    "a flipped box": ("boxes", (1, 2), 0, "ends before it begins"),
    "a size": ("image_size", (0, 1), 0, "has no size"),
}


@pytest.mark.parametrize("name", ["yolo", "labelme", "cvat", "voc"])
@pytest.mark.parametrize(("array", "at", "value", "fault"), BROKEN_VALUES.values(), ids=BROKEN_VALUES)
def test_values_that_mean_nothing(tmp_path: Path, name: str, array: str, at: Any, value: Any, fault: str) -> None:
    arrays = sample_arrays()
    arrays[array][at] = value
    with pytest.raises(PredictionsError, match=fault):
        export_predictions(predictions_of(tmp_path, arrays), name, tmp_path / "out", boxes_only=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cvat", "voc"])
def test_xml_holds_any_text_but_control_characters(tmp_path: Path, name: str) -> None:
    files = ["a&<\"'é🙂.jpg", "b\x01.jpg", *FILES[2:]]
    with pytest.raises(PredictionsError, match="XML cannot hold"):
        export_predictions(predictions_of(tmp_path, sample_arrays(), files), name, tmp_path / "out", boxes_only=True)
    assert not (tmp_path / "out").exists()
    files[1] = "b.jpg"
    export_predictions(predictions_of(tmp_path, sample_arrays(), files), name, tmp_path / "out", boxes_only=True)
    written = tmp_path / "out" if name == "cvat" else tmp_path / "out" / "Annotations" / "a&<\"'é🙂.xml"
    root = ElementTree.parse(written).getroot()
    assert files[0] in (root.findtext("filename"), *(image.get("name") for image in root.findall("image")))


# Names


@pytest.mark.parametrize("name", FOLDERS)
def test_images_that_differ_in_the_extension_have_files_of_their_own(tmp_path: Path, name: str) -> None:
    predictions = predictions_of(tmp_path, sample_arrays(), ["d/x.jpg", "d/x.png", "d/x", "y.jpg"])
    export_predictions(predictions, name, tmp_path / "out", boxes_only=True)
    ending = {"yolo": ".txt", "labelme": ".json", "voc": ".xml"}[name]
    written = {path.name for path in (tmp_path / "out").rglob(f"*{ending}")}
    assert written == {f"x.jpg{ending}", f"x.png{ending}", f"y{ending}"}  # the third image failed


OUTSIDE = ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a//x.jpg", ".", "a/.."]


@pytest.mark.parametrize("name", ["yolo", "labelme"])
@pytest.mark.parametrize("file", OUTSIDE)
def test_no_name_leads_outside_the_folder(tmp_path: Path, name: str, file: str) -> None:
    predictions = predictions_of(tmp_path, sample_arrays(), [file, *FILES[1:]])
    with pytest.raises(PredictionsError, match="is not a relative path of an image"):
        export_predictions(predictions, name, tmp_path / "below" / "out", boxes_only=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["q.npz"]


@pytest.mark.parametrize("file", OUTSIDE[:4])
def test_files_named_after_the_base_name_stay_in_the_folder(tmp_path: Path, file: str) -> None:
    predictions = predictions_of(tmp_path, sample_arrays(), [file, *FILES[1:]])
    export_predictions(predictions, "voc", tmp_path / "below" / "out", boxes_only=True)
    below = tmp_path / "below" / "out" / "Annotations"
    assert {*tmp_path.rglob("*.xml")} == {below / f"{name}.xml" for name in ("x", "sub/b", "other/b")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "q.npz"]
    twice = predictions_of(tmp_path, sample_arrays(), [file, "b/x.jpg", *FILES[2:]])
    with pytest.raises(PredictionsError, match="is not a relative path of an image"):
        export_predictions(twice, "voc", tmp_path / "twice", boxes_only=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_holds_anything_is_left_alone(predictions: Predictions, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(UsageError, match="exists already"):
        export_predictions(predictions, name, tmp_path / "out", boxes_only=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@given(ANY_FILES)
@settings(max_examples=200)
def test_no_file_is_another_or_in_its_way(files: list[str]) -> None:
    for ending in (".txt", ".json", ".xml"):
        paths = assign_paths(Path("/x"), [file.replace(".png", ending) for file in files], ending)
        assert len(set(paths)) == len(files)
        folders = {parent for path in paths for parent in path.parents}
        assert not folders & set(paths)
        assert all(path.is_relative_to("/x") for path in paths)


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    with pytest.raises(PredictionsError, match="leads outside"):
        path_below(tmp_path / "out", "sub/b", ".txt")


# The command


def test_the_help_lists_every_format(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["export", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ", ".join([*FORMATS_WRITTEN][:-1]) + f", or {[*FORMATS_WRITTEN][-1]}" in shown


def test_export_of_the_best_instances(predictions: Predictions, tmp_path: Path, capsys: Captured) -> None:
    command = ["export", str(predictions.path), "-f", "yolo", "--boxes", "--min-score", "0.7"]
    assert main(command) == 0
    assert capsys.readouterr().err.splitlines()[0] == f"wrote {tmp_path / 'p-yolo'}"
    lines = [path.read_text().splitlines() for path in sorted((tmp_path / "p-yolo" / "labels").rglob("*.txt"))]
    assert [len(found) for found in lines] == [1, 0, 3]
    assert all(len(line.split()) == 5 for found in lines for line in found)
    assert main(command) == 2
    assert main(["export", str(predictions.path), "-f", "voc"]) == 2
    assert "--format voc --boxes" in capsys.readouterr().err


def test_formats_name_their_outputs() -> None:
    assert {name: get_format(name).is_folder for name in FORMATS_WRITTEN} == {
        **dict.fromkeys(("coco", "cvat", "parquet", "fashionfail"), False),
        **dict.fromkeys(("yolo", "labelme", "voc", "imdlbenco"), True),
    }


def test_parquet_is_typed_as_documented(
    predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for pyarrow: the schema that is asked for."""
    asked: dict[str, Any] = {}
    arrow, parquet = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
    for kind in ("string", "int32", "int64", "float32"):
        setattr(arrow, kind, lambda kind=kind: kind)
    arrow.list_ = lambda kind: f"list of {kind}"  # type: ignore[attr-defined]
    arrow.schema = lambda fields, metadata: asked.update(fields)  # type: ignore[attr-defined]
    arrow.table = lambda columns, schema: asked.update(columns=list(columns))  # type: ignore[attr-defined]

    class Writer:
        def __init__(self, stream: Any, schema: Any, compression: str) -> None: ...

        def __enter__(self) -> Writer:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write_table(self, table: Any) -> None: ...

    parquet.ParquetWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    export_predictions(predictions, "parquet", tmp_path / "out.parquet")
    assert asked.pop("columns") == list(export_parquet.COLUMNS)
    assert asked == {**export_parquet.COLUMNS, "attributes": "list of float32"}
