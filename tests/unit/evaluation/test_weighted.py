"""FashionFail's weighted averages: a case done by hand, the definition, and the layout its own evaluation reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.evaluation.coco.averages import FASHIONFAIL_CATEGORIES
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.predictions import rle
from orchestrator.predictions.export import export_fashionfail
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.compare_samples import changed
from tests.unit.evaluation.evaluate_samples import random_arrays, random_truth, reference, stored
from tests.unit.predictions.predictions_samples import META, Arrays, box_mask, digests, save

SIZE = (100, 100)
NAMES = [{"id": number, "name": f"c{number}"} for number in range(46)]


def predictions_of(found: list[tuple[int, int, tuple[int, int, int, int]]], images: int, **meta: Any) -> Arrays:
    """Instances as (image, category, box), all of score 0.9."""
    found = sorted(found, key=lambda one: one[0])
    masks = [rle.encode(box_mask(SIZE, box)) for _, _, box in found]
    kept = {key: value for key, value in META.items() if key != "attribute_names"}
    return {
        "image_file": np.array([f"{n}.jpg" for n in range(images)]),
        "image_sha256": digests([f"{n}.jpg" for n in range(images)]),
        "image_size": np.array([SIZE] * images, np.int32),
        "status": np.zeros(images, np.uint8),
        "error": np.zeros(images, "U1"),
        "offsets": np.searchsorted([image for image, _, _ in found], np.arange(images + 1)).astype(np.int64),
        "boxes": np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
        "classes": np.array([category for _, category, _ in found], np.int32),
        "scores": np.full(len(found), 0.9, np.float32),
        "masks": np.frombuffer(b"".join(masks), np.uint8).copy(),
        "mask_offsets": np.cumsum([0, *map(len, masks)], dtype=np.int64),
        "meta": np.array(json.dumps({**kept, "categories": NAMES, "taxonomy": "fashionpedia", **meta})),
    }


def truth_of(found: list[tuple[int, int, tuple[int, int, int, int]]], images: int) -> dict[str, Any]:
    return {
        "images": [{"id": n + 1, "file_name": f"{n}.jpg", "height": 100, "width": 100} for n in range(images)],
        "categories": NAMES,
        "annotations": [
            {"id": n, "image_id": image + 1, "category_id": category, "iscrowd": 0,
             "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
             "segmentation": [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]]}
            for n, (image, category, box) in enumerate(found, start=1)
        ],
    }  # fmt: skip


def test_a_case_done_by_hand(tmp_path: Path) -> None:
    """Category 0 is in three images and always found; 1 is in one image, found with an overlap of 0.6; 2 is left out
    by FashionFail; 30 is none of the first 27. Weights are 3/4 and 1/4. AP is 1 for category 0, and for 1 it is 1 at
    .50, .55, .60 only: 0.3."""
    square, wide = (10, 10, 30, 30), (10, 10, 60, 20)
    truth = truth_of([(0, 0, square), (1, 0, square), (2, 0, square), (2, 0, (50, 50, 70, 70)), (3, 1, wide),
                      (3, 2, square), (4, 30, square)], 5)  # fmt: skip
    found = [(0, 0, square), (1, 0, square), (2, 0, square), (2, 0, (50, 50, 70, 70)), (3, 1, (10, 10, 40, 20))]
    predictions, annotations = stored(tmp_path, predictions_of(found, 5), truth)
    for iou in ("segm", "bbox"):
        result = evaluate(predictions, annotations, iou)
        weighted = result.weighted
        assert weighted.map_w == pytest.approx(0.75 * 1 + 0.25 * 0.3)
        assert weighted.map_w50 == pytest.approx(1.0)
        assert weighted.map_w75 == pytest.approx(0.75)
        # At one detection an image, one of the two of category 0 in the third image is out of reach: 3 of 4.
        assert weighted.mar_w1 == pytest.approx(0.75 * 0.75 + 0.25 * 0.3)
        assert weighted.mar_w100 == pytest.approx(0.75 * 1 + 0.25 * 0.3)
        assert weighted.categories == 2
        assert {one.id: one.weight for one in result.per_category if one.weight} == {0: 0.75, 1: 0.25}
        # COCO's own average counts all annotated categories alike, the two that were not found too.
        assert result.ap == pytest.approx((1 + 0.3 + 0 + 0) / 4)


def test_the_definition_on_random_data(tmp_path: Path) -> None:
    sample = random_truth(8)
    predictions, annotations = stored(tmp_path, changed(random_arrays(sample, 8), taxonomy="fashionpedia"), sample)
    ids = sorted(one["id"] for one in sample["categories"])
    curves = reference(predictions, annotations, "segm").eval
    images = {
        number: len({one["image_id"] for one in sample["annotations"] if one["category_id"] == number})
        for number in ids if number in FASHIONFAIL_CATEGORIES
    }  # fmt: skip
    shares = {number: count / sum(images.values()) for number, count in images.items()}

    def wanted(values: Any) -> float:
        known = [(shares[n], values[..., ids.index(n)]) for n in shares if shares[n]]
        return float(sum(share * value.mean() for share, value in known))

    weighted = evaluate(predictions, annotations).weighted
    precision, recall = curves["precision"][:, :, :, 0, -1], curves["recall"][:, :, 0]
    assert weighted.map_w == pytest.approx(wanted(precision), abs=1e-9)
    assert weighted.map_w50 == pytest.approx(wanted(precision[:1]), abs=1e-9)
    assert weighted.map_w75 == pytest.approx(wanted(precision[5:6]), abs=1e-9)
    assert weighted.mar_w1 == pytest.approx(wanted(recall[:, :, 0]), abs=1e-9)
    assert weighted.mar_w100 == pytest.approx(wanted(recall[:, :, 2]), abs=1e-9)


def test_another_taxonomy_weighs_all_its_categories(tmp_path: Path) -> None:
    sample = random_truth(8)
    predictions, annotations = stored(tmp_path, random_arrays(sample, 8), sample)
    result = evaluate(predictions, annotations)
    assert result.weighted.categories == 3
    assert sum(one.weight or 0 for one in result.per_category) == pytest.approx(1)
    nothing = {**sample, "annotations": []}
    assert evaluate(*stored(tmp_path, random_arrays(sample, 8), nothing)).weighted.map_w is None


@pytest.mark.parametrize("order", ["xyxy", "yxyx"])
@pytest.mark.parametrize("base", [0, 1])
def test_figures_survive_fashionfails_layout(tmp_path: Path, order: str, base: int) -> None:
    """Exported as that project's evaluation reads it, read again by the rules of its layout, and scored again."""
    sample = random_truth(9)
    native = {"box_order": order, "class_base": base, "class_map": [0, 3, 7, 9]}
    arrays = changed(random_arrays(sample, 9), native=native)
    predictions, annotations = stored(tmp_path, arrays, sample)
    export_fashionfail(predictions, tmp_path / "ff.npz")
    again = Predictions.load(save(_read_fashionfail(tmp_path / "ff.npz", order, base, arrays), tmp_path / "again.npz"))
    for iou in ("segm", "bbox"):
        first, second = (evaluate(one, annotations, iou) for one in (predictions, again))
        assert first == second
        assert first.ap is not None
        assert first.ap > 0.1


def _read_fashionfail(path: Path, order: str, base: int, like: Arrays) -> Arrays:
    """The pickled `data=[…]`: boxes in the model's order, classes in its numbering, files by base name."""
    with np.load(path, allow_pickle=True) as stored_file:
        records = {record["image_file"]: record for record in stored_file["data"]}
    files = like["image_file"].tolist()
    ordered = [records[Path(file).name] for file in files]
    places = [0, 1, 2, 3] if order == "xyxy" else [1, 0, 3, 2]
    counts = [mask["counts"] for record in ordered for mask in record["masks"]]
    classes = np.concatenate([record["classes"] for record in ordered]) - base
    return {
        "image_file": like["image_file"],
        "image_sha256": like["image_sha256"],
        "image_size": like["image_size"],
        "status": like["status"],
        "error": like["error"],
        "offsets": np.cumsum([0, *(len(record["scores"]) for record in ordered)], dtype=np.int64),
        "boxes": np.concatenate([record["boxes"] for record in ordered])[:, places].copy(),
        "classes": np.array([0, 3, 7, 9], np.int32)[classes],
        "scores": np.concatenate([record["scores"] for record in ordered]),
        "masks": np.frombuffer(b"".join(counts), np.uint8).copy(),
        "mask_offsets": np.cumsum([0, *map(len, counts)], dtype=np.int64),
        "meta": like["meta"],
    }
