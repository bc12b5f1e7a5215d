"""Ids of images are whatever JSON can hold, and their order decides between equal scores; areas that are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from orchestrator.cli import main
from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.detections import join
from orchestrator.evaluation.coco.engines import THRESHOLDS
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.coco.ground_truth import read_truth
from orchestrator.evaluation.coco.matching import match
from orchestrator.evaluation.coco.resampling import ResampledPrecision
from orchestrator.evaluation.compare.fairness import Cut, restrict
from orchestrator.predictions.export import export_coco
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.evaluate_samples import Iou
from tests.unit.predictions.predictions_samples import META, box_mask, digests, save

SIZE = (200, 200)
ENGINES = ("hotcoco", "pycocotools")
BOX = (10, 10, 40, 40)
AFTER_INT64 = (1 << 63) + 5


def save_predictions(path: Path, *detections: tuple[str, float], box: tuple[int, int, int, int] = BOX) -> Predictions:
    """One detection (file, score) in each image, all of one box x, y, width, height."""
    files, count = [file for file, _ in detections], len(detections)
    x, y, width, height = box
    corners = (x, y, x + width, y + height)
    counts = coco_mask.encode(np.asfortranarray(box_mask(SIZE, corners)))["counts"]
    arrays = {
        "image_file": np.array(files),
        "image_sha256": digests(files),
        "image_size": np.array([SIZE] * count, np.int32),
        "status": np.zeros(count, np.uint8),
        "error": np.zeros(count, "U1"),
        "offsets": np.arange(count + 1, dtype=np.int64),
        "boxes": np.array([corners] * count, np.float32),
        "classes": np.ones(count, np.int32),
        "scores": np.array([score for _, score in detections], np.float32),
        "masks": np.frombuffer(counts * count, np.uint8),
        "mask_offsets": np.arange(count + 1, dtype=np.int64) * len(counts),
        "meta": np.array(json.dumps({key: META[key] for key in META if key != "attribute_names"} | {
            "categories": [{"id": 1, "name": "thing"}]})),
    }  # fmt: skip
    return Predictions.load(save(arrays, path / "p.npz"))


def save_truth(path: Path, images: dict[str, Any], annotated: Any, **changed: Any) -> Path:
    """Images (file name and id) of which the one with the id `annotated` has BOX."""
    x, y, width, height = BOX
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    annotation = {
        "id": 1, "image_id": annotated, "category_id": 1, "bbox": list(BOX), "area": 1600, "iscrowd": 0,
        "segmentation": [corners],
    }  # fmt: skip
    truth = {
        "images": [{"id": key, "file_name": name, "height": 200, "width": 200} for name, key in images.items()],
        "annotations": [annotation | changed],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (path / "truth.json").write_text(json.dumps(truth))
    return path / "truth.json"


@pytest.mark.parametrize("iou", ["segm", "bbox"])
@pytest.mark.parametrize(
    ("right", "wrong", "ap"),
    [
        (20, 10, 0.5),
        (10, 20, 1.0),
        ("b", "a", 0.5),
        ("10", "9", 1.0),  # as texts
        (10, 9.5, 0.5),
        (AFTER_INT64 + 1, AFTER_INT64, 0.5),
        ("1", 2, 0.5),  # numbers before texts
        (2, "1", 1.0),
        (-1, 0, 1.0),
    ],
)
def test_of_equal_scores_the_image_with_the_lower_id_comes_first(
    tmp_path: Path, right: Any, wrong: Any, ap: float, iou: Iou
) -> None:
    predictions = save_predictions(tmp_path, ("a.png", 0.5), ("b.png", 0.5))
    annotations = save_truth(tmp_path, {"a.png": right, "b.png": wrong}, right)
    for engine in ENGINES:
        assert evaluate(predictions, annotations, iou, engine=engine).ap == pytest.approx(ap)
    truth = read_truth(annotations, iou)
    assert truth.files == (["a.png", "b.png"] if ap == 1 else ["b.png", "a.png"])
    matches = match(truth, join(predictions, truth).detections, iou, THRESHOLDS)
    assert ResampledPrecision(truth, matches)(np.ones(2, np.int64)).mean() == pytest.approx(ap)


@pytest.mark.parametrize("image_id", ["0000001_02999_d_0000005", AFTER_INT64, 1 << 70, -(1 << 70), 2.5, "", "\ud800"])
def test_ids_of_any_kind_are_read_and_exported(
    tmp_path: Path, image_id: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = save_predictions(tmp_path, ("a.png", 0.9))
    annotations = save_truth(tmp_path, {"x.png": 7, "a.png": image_id}, image_id, id="an annotation")
    assert main(["eval", str(predictions.path), "-a", str(annotations), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ap"] == pytest.approx(1)
    export_coco(predictions, tmp_path / "out.json", annotations)
    assert [result["image_id"] for result in json.loads((tmp_path / "out.json").read_text())] == [image_id]


@pytest.mark.parametrize("image_id", [None, True, [1], {}, float("nan"), float("inf")])
def test_other_values_are_no_ids(tmp_path: Path, image_id: Any) -> None:
    annotations = save_truth(tmp_path, {"a.png": image_id}, image_id)
    with pytest.raises(UsageError) as caught:
        read_truth(annotations, "bbox")
    assert caught.value.why == "images[0] has no id that is a number or a text"


def test_a_number_and_its_text_are_two_ids(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_truth(save_truth(tmp_path, {"a.png": "1"}, 1), "bbox")
    assert caught.value.why == "the file has no image 1"
    with pytest.raises(UsageError, match="ambiguous"):
        read_truth(save_truth(tmp_path, {"a.png": 1, "b.png": 1.0}, 1), "bbox")


def test_ids_of_categories_that_predictions_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = save_predictions(tmp_path, ("a.png", 0.9))
    annotations = save_truth(tmp_path, {"a.png": 1}, 1)
    truth = json.loads(annotations.read_text())
    truth["categories"].append({"id": 1 << 63, "name": "huge"})
    annotations.write_text(json.dumps(truth))
    assert main(["eval", str(predictions.path), "-a", str(annotations)]) == 2
    assert f"the category 'huge' has the id {1 << 63}" in capsys.readouterr().err
    meta = predictions.meta | {"categories": [{"id": 1, "name": "thing"}, {"id": 1 << 63, "name": "huge"}]}
    broken = Predictions({**predictions.arrays, "meta": np.array(json.dumps(meta))})
    assert [str(problem) for problem in broken.validate()] == ["meta: categories is not a list of {id, name}"]
    assert len(restrict(broken, Cut(categories={1: "thing", 1 << 63: "huge"})).scores) == 1


def test_a_number_beyond_all_floats_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="annotation 1 of"):
        read_truth(save_truth(tmp_path, {"a.png": 1}, 1, bbox=[0, 0, 10**400, 1]), "bbox")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_area_left_out_is_that_of_the_mask_where_masks_are_compared(tmp_path: Path, engine: str) -> None:
    """A strip of 640 pixels whose box has 26,080."""
    strip = np.zeros(SIZE, bool)
    for step in range(160):
        strip[20 + step, 20 + step : 24 + step] = True
    encoded = coco_mask.encode(np.asfortranarray(strip))
    assert strip.sum() == 640
    predictions = save_predictions(tmp_path, ("a.png", 0.9), box=(20, 20, 163, 160))
    counts = np.frombuffer(encoded["counts"], np.uint8)
    arrays = {**predictions.arrays, "masks": counts, "mask_offsets": np.array([0, len(counts)])}
    segmentation = {"size": list(SIZE), "counts": encoded["counts"].decode()}
    annotations = save_truth(tmp_path, {"a.png": 1}, 1, bbox=[20, 20, 163, 160], segmentation=segmentation)
    truth = json.loads(annotations.read_text())
    del truth["annotations"][0]["area"]
    annotations.write_text(json.dumps(truth))
    masks = evaluate(Predictions(arrays), annotations, "segm", engine=engine)
    assert masks.ap_small == pytest.approx(1)
    assert masks.ap_medium is masks.ap_large is None
    boxes = evaluate(Predictions(arrays), annotations, "bbox", engine=engine)
    assert boxes.ap_small is boxes.ap_medium is None
    assert boxes.ap_large == pytest.approx(1)
