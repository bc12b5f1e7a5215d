"""Exports as others read them: COCO results, and FashionFail's pickled layout under any numpy."""

from __future__ import annotations

import json
import os
import pickletools
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import OrchError, PredictionsError, UsageError
from orchestrator.predictions import npz
from orchestrator.predictions.export import export_coco, export_fashionfail
from orchestrator.predictions.formats import FORMATS_WRITTEN, export_predictions, get_format
from orchestrator.predictions.output_names import picture_path
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import FILES, META, sample_arrays, save

FILE_FORMATS = {"coco": export_coco, "fashionfail": export_fashionfail}


def predictions_with(tmp_path: Path, **meta: Any) -> Predictions:
    arrays = sample_arrays() | {"meta": np.array(json.dumps(META | meta))}
    return Predictions.load(save(arrays, tmp_path / "p.npz"))


def test_fashionfail_gets_a_models_own_inclusive_edges_and_types_back(tmp_path: Path) -> None:
    native = {
        "box_order": "xyxy",
        "box_edges": "inclusive",
        "class_type": "int32",
        "class_base": 0,
        "class_map": [0, 5, 7],
    }
    arrays = sample_arrays() | {"meta": np.array(json.dumps(META | {"native": native}))}
    arrays["boxes"][0] = 0  # around an empty mask
    export_fashionfail(Predictions.load(save(arrays, tmp_path / "p.npz")), tmp_path / "out.npz")
    records = np.load(tmp_path / "out.npz", allow_pickle=True)["data"]
    assert records[0]["boxes"].tolist() == [[0, 0, 0, 0], [3, 4, 13, 17]]
    assert (records[0]["boxes"].dtype, records[0]["classes"].dtype) == (np.float32, np.int32)


def write_annotations(tmp_path: Path, names: dict[int, str]) -> Path:
    path = tmp_path / "annotations.json"
    images = [{"id": number, "file_name": name} for number, name in names.items()]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return path


def test_coco_results_are_those_of_the_predictions(tmp_path: Path) -> None:
    predictions = predictions_with(tmp_path)
    export_coco(predictions, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == list(predictions.to_coco())


def test_coco_results_without_instances_are_an_empty_list(tmp_path: Path) -> None:
    arrays = sample_arrays()
    for name in ("boxes", "classes", "scores", "masks", "attributes"):
        arrays[name] = arrays[name][:0]
    arrays |= {"offsets": np.zeros(5, np.int64), "mask_offsets": np.zeros(1, np.int64)}
    export_coco(Predictions.load(save(arrays, tmp_path / "p.npz")), tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_image_ids_come_from_the_annotations(tmp_path: Path) -> None:
    # a.jpg by its base name, the others by their whole path: their base name is not unique.
    source = write_annotations(
        tmp_path, {7: "val/a.jpg", 8: "sub/b.jpg", 9: "sub/c.png", 10: "other/b.jpg", 1: "x.jpg"}
    )
    export_coco(predictions_with(tmp_path), tmp_path / "out.json", source)
    ids = [result["image_id"] for result in json.loads((tmp_path / "out.json").read_text())]
    assert ids == [7, 7, 8, 8, 8, 10]


@pytest.mark.parametrize(
    "names",
    [
        {7: "a.jpg", 8: "b.jpg", 9: "c.png"},  # two predictions could be b.jpg
        {7: "a.jpg", 8: "sub/b.jpg", 9: "c.png", 10: "x.jpg"},
        {7: "x/a.jpg", 6: "y/a.jpg", 8: "sub/b.jpg", 9: "c.png", 10: "other/b.jpg"},  # two annotations could be a.jpg
        {7: "a.jpg", 6: "a.jpg", 8: "sub/b.jpg", 9: "c.png", 10: "other/b.jpg"},
    ],
)
def test_images_without_one_match_are_named(tmp_path: Path, names: dict[int, str]) -> None:
    (tmp_path / "out.json").write_text("old")
    with pytest.raises(PredictionsError, match=r"are not in .*annotations\.json: (sub/b|other/b|a)\.jpg"):
        export_coco(predictions_with(tmp_path), tmp_path / "out.json", write_annotations(tmp_path, names))
    assert (tmp_path / "out.json").read_text() == "old"


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [{"id": "1", "file_name": "a"}]}', '{"images": 3}'])
def test_annotations_in_another_format_are_a_usage_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match="annotations"):
        export_coco(predictions_with(tmp_path), tmp_path / "out.json", tmp_path / "a.json")
    with pytest.raises(UsageError, match="annotations"):
        export_coco(predictions_with(tmp_path), tmp_path / "out.json", tmp_path / "missing.json")


def test_values_json_cannot_say_are_refused(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["boxes"][1, 1] = np.nan
    with pytest.raises(PredictionsError, match="not finite"):
        export_coco(Predictions.load(save(arrays, tmp_path / "p.npz")), tmp_path / "out.json")


def load_fashionfail(path: Path) -> list[dict[str, Any]]:
    with np.load(path, allow_pickle=True) as loaded:
        assert loaded.files == ["data"]
        records: list[dict[str, Any]] = loaded["data"].tolist()
    return records


def test_fashionfail_has_the_models_own_boxes_and_classes(tmp_path: Path) -> None:
    arrays = sample_arrays()
    export_fashionfail(predictions_with(tmp_path), tmp_path / "out.npz")
    first, second, last = load_fashionfail(tmp_path / "out.npz")  # the failed image is left out
    assert [first["image_file"], second["image_file"], last["image_file"]] == ["a.jpg", "sub/b.jpg", "other/b.jpg"]
    assert list(first) == ["image_file", "boxes", "classes", "scores", "masks", "attributes"]
    np.testing.assert_array_equal(second["boxes"], arrays["boxes"][2:5][:, [1, 0, 3, 2]])
    assert second["boxes"].dtype == np.float32
    assert second["classes"].tolist() == [3, 1, 2]
    assert second["scores"].dtype == np.float32
    assert second["masks"] == predictions_with(tmp_path)[1]["masks"]
    np.testing.assert_array_equal(last["attributes"], arrays["attributes"][5:])


def test_fashionfail_keeps_xyxy_where_the_model_has_it(tmp_path: Path) -> None:
    native = {"box_order": "xyxy", "class_base": 0, "class_map": list(range(46))}
    export_fashionfail(predictions_with(tmp_path, native=native), tmp_path / "out.npz")
    record = load_fashionfail(tmp_path / "out.npz")[0]
    np.testing.assert_array_equal(record["boxes"], sample_arrays()["boxes"][:2])
    assert record["classes"].tolist() == [0, 5]


@pytest.mark.parametrize(
    "native",
    [
        None,
        {"box_order": "xywh", "class_base": 0, "class_map": [0, 5, 7]},
        {"box_order": "xyxy", "class_base": 0, "class_map": None},
        {"box_order": "xyxy", "class_base": 0, "class_map": [0, 5]},
    ],
)
def test_fashionfail_needs_to_know_the_models_own_conventions(tmp_path: Path, native: Any) -> None:
    with pytest.raises(PredictionsError):
        export_fashionfail(predictions_with(tmp_path, native=native), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_fashionfail_takes_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        export_predictions(predictions_with(tmp_path), "fashionfail", tmp_path / "out.npz", tmp_path / "a.json")


def test_the_pickle_names_only_what_every_numpy_has(tmp_path: Path) -> None:
    export_fashionfail(predictions_with(tmp_path), tmp_path / "out.npz")
    with zipfile.ZipFile(tmp_path / "out.npz") as archive, archive.open("data.npy") as stream:
        stream.read(128)
        strings = {str(argument) for _, argument, _ in pickletools.genops(stream.read())}
    assert "numpy" in strings
    assert not [text for text in strings if "numpy." in text or "_core" in text]


def test_an_old_numpy_reads_the_pickle(tmp_path: Path) -> None:
    """With ORCH_OLD_NUMPY naming a Python that has numpy 1; the test above stands in for it elsewhere."""
    python = os.environ.get("ORCH_OLD_NUMPY")
    if not python:
        pytest.skip("ORCH_OLD_NUMPY does not name a Python with numpy 1")
    export_fashionfail(predictions_with(tmp_path), tmp_path / "out.npz")
    code = """if True:
        import numpy as np, sys
        assert np.__version__.startswith("1."), np.__version__
        data = np.load(sys.argv[1], allow_pickle=True)["data"]
        assert data.dtype == object and data.shape == (3,)
        data[1]["boxes"] += 1  # writable
        print([[r["image_file"], r["boxes"].tolist(), r["classes"].tolist(), len(r["masks"])] for r in data])
    """
    done = subprocess.run([python, "-c", code, str(tmp_path / "out.npz")], capture_output=True, check=True, text=True)
    assert "['sub/b.jpg', [[6.0, 5.0, 20.0, 17.0]," in done.stdout


def test_imdlbenco_is_for_manipulation_localization_in_its_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is for binary-segmentation, manipulation-localization"):
        export_predictions(predictions_with(tmp_path), "imdlbenco", tmp_path / "out")
    forged = predictions_with(tmp_path, task="manipulation-localization")
    with pytest.raises(UsageError, match="cannot use annotations"):
        export_predictions(forged, "imdlbenco", tmp_path / "out", tmp_path / "x.json")
    with pytest.raises(PredictionsError, match="mask pictures are missing"):
        export_predictions(forged, "imdlbenco", tmp_path / "out")
    (tmp_path / "masks").mkdir()
    with pytest.raises(PredictionsError, match=r"the mask picture of .* is missing"):
        export_predictions(forged, "imdlbenco", tmp_path / "out")


def test_imdlbenco_writes_into_a_new_or_an_empty_folder_only(tmp_path: Path) -> None:
    forged = predictions_with(tmp_path, task="manipulation-localization")
    for name in FILES:
        picture_path(tmp_path / "masks", name).parent.mkdir(parents=True, exist_ok=True)
        picture_path(tmp_path / "masks", name).write_bytes(b"picture")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty"):
        export_predictions(forged, "imdlbenco", folder)
        assert len(list((folder / "pred").rglob("*.png"))) == len(FILES) - 1, "one image failed"
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path / "file", tmp_path / "empty"):
        with pytest.raises(UsageError, match="exists already"):
            export_predictions(forged, "imdlbenco", taken)


def test_exports_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    predictions = predictions_with(tmp_path)
    for name, export in FILE_FORMATS.items():
        for copy in ("1", "2"):
            export(predictions, tmp_path / (name + copy))
        assert (tmp_path / f"{name}1").read_bytes() == (tmp_path / f"{name}2").read_bytes()


@pytest.mark.parametrize("export", FILE_FORMATS.values(), ids=FILE_FORMATS)
def test_broken_masks_leave_no_half_export(tmp_path: Path, export: Callable[[Predictions, Path], None]) -> None:
    arrays = sample_arrays() | {"mask_offsets": np.zeros(7, np.int64)}
    predictions = Predictions.load(save(arrays, tmp_path / "p.npz"))
    with pytest.raises(OrchError):
        export(predictions, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_membership_reads_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = npz.open_arrays(save(sample_arrays(), tmp_path / "p.npz"))
    monkeypatch.setattr(npz.Arrays, "__getitem__", lambda *_: pytest.fail("read"))
    assert "boxes" in arrays
    assert "nothing" not in arrays
    assert FILES[0] not in arrays


def test_formats_are_found_by_name_and_an_unknown_one_gets_a_suggestion() -> None:
    assert {name: get_format(name) for name in FORMATS_WRITTEN} == FORMATS_WRITTEN
    with pytest.raises(UsageError, match="unknown format 'cocoa'") as caught:
        get_format("cocoa")
    assert caught.value.why == "did you mean coco?"
