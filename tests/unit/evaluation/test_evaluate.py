"""COCO metrics: known figures on small truths, images matched by name, and nothing unchecked for pycocotools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from orchestrator.errors import PredictionsError, UsageError
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.predictions import rle
from orchestrator.predictions.predictions import Predictions
from tests.unit.predictions.predictions_samples import FILES, META, SIZES, Arrays, sample_arrays, save

Iou = Literal["segm", "bbox"]


def truth_of(arrays: Arrays) -> dict[str, Any]:
    """Annotations that are exactly what was predicted, with ids from 0 on as some files have them."""
    predictions = Predictions(arrays)
    images = [
        {"id": 100 + i, "file_name": file, "height": size[0], "width": size[1]}
        for i, (file, size) in enumerate(zip(FILES, SIZES, strict=True))
    ]
    found = enumerate(predictions.to_coco(np.arange(100, 104)))
    annotations = [{"id": n, "iscrowd": 0, "area": r["bbox"][2] * r["bbox"][3], **r} for n, r in found]
    return {"images": images, "annotations": annotations, "categories": META["categories"]}


def run(tmp_path: Path, arrays: Arrays, truth: dict[str, Any], iou: Iou = "segm") -> Any:
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return evaluate(Predictions.load(save(arrays, tmp_path / "p.npz")), tmp_path / "truth.json", iou)


@pytest.mark.parametrize("iou", ["segm", "bbox"])
def test_the_truth_itself_scores_one(tmp_path: Path, iou: Iou, capfd: pytest.CaptureFixture[str]) -> None:
    metrics = run(tmp_path, sample_arrays(), truth_of(sample_arrays()), iou)
    assert (metrics.ap, metrics.ap50, metrics.ap75) == pytest.approx((1, 1, 1))
    hat = metrics.per_category[1]
    assert (hat.id, hat.name, hat.ap, hat.annotations) == (5, "hat", pytest.approx(1), 2)
    assert (metrics.iou, metrics.images, metrics.missing) == (iou, 4, 0)
    assert capfd.readouterr() == ("", "")


def test_a_box_half_off_counts_at_half_overlap_only(tmp_path: Path) -> None:
    arrays = sample_arrays()
    truth = truth_of(arrays)
    truth["annotations"] = truth["annotations"][:1]
    x, y, width, height = truth["annotations"][0]["bbox"]
    truth["annotations"][0]["bbox"] = [x, y, width * 1.5, height]  # the overlap is 2/3
    metrics = run(tmp_path, arrays, truth, "bbox")
    assert (metrics.ap50, metrics.ap75) == pytest.approx((1, 0))
    assert metrics.ap == pytest.approx(0.4)  # .50, .55, .60, .65 of ten thresholds
    assert [one.ap for one in metrics.per_category][1:] == [None, None]


def test_images_without_predictions_count_and_are_told(tmp_path: Path) -> None:
    truth = truth_of(sample_arrays())
    truth["images"].append({"id": 1, "file_name": "unseen.jpg", "height": 10, "width": 10})
    truth["annotations"].append({**truth["annotations"][0], "image_id": 1, "id": 99})
    truth["annotations"][-1]["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    metrics = run(tmp_path, sample_arrays(), truth)
    assert (metrics.images, metrics.missing) == (5, 1)
    assert metrics.ap < 1


def test_no_instances_score_zero(tmp_path: Path) -> None:
    arrays, truth = sample_arrays(), truth_of(sample_arrays())
    for name in ("boxes", "classes", "scores", "masks", "attributes"):
        arrays[name] = arrays[name][:0]
    arrays |= {"offsets": np.zeros(5, np.int64), "mask_offsets": np.zeros(1, np.int64)}
    assert run(tmp_path, arrays, truth).ap == 0


def test_no_annotations_have_no_score(tmp_path: Path) -> None:
    metrics = run(tmp_path, sample_arrays(), truth_of(sample_arrays()) | {"annotations": []})
    assert (metrics.ap, metrics.ap50) == (None, None)


def test_left_out_fields_get_what_they_mean(tmp_path: Path) -> None:
    truth = truth_of(sample_arrays())
    for annotation in truth["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    assert run(tmp_path, sample_arrays(), truth).ap == pytest.approx(1)


def test_polygons_and_plain_run_lengths_are_truths_too(tmp_path: Path) -> None:
    truth = truth_of(sample_arrays())
    x, y, width, height = truth["annotations"][0]["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    truth["annotations"][0]["segmentation"] = [corners]
    size = truth["annotations"][1]["segmentation"]["size"]
    runs = rle.parse_counts(truth["annotations"][1]["segmentation"]["counts"].encode()).tolist()
    truth["annotations"][1]["segmentation"] = {"size": size, "counts": runs}
    assert run(tmp_path, sample_arrays(), truth).ap == pytest.approx(1)


def test_sizes_that_disagree_are_told(tmp_path: Path) -> None:
    truth = truth_of(sample_arrays())
    truth["images"][0] |= {"height": 60, "width": 40}
    with pytest.raises(PredictionsError, match=r"a\.jpg is 60x40 pixels, but 40x60") as caught:
        run(tmp_path, sample_arrays(), truth, "bbox")
    assert "EXIF" in str(caught.value.why)


def test_images_that_are_not_annotated_are_named(tmp_path: Path) -> None:
    truth = truth_of(sample_arrays())
    truth["images"][3]["file_name"] = "else.jpg"
    metrics = run(tmp_path, sample_arrays(), truth)
    assert (metrics.unknown_images, metrics.missing_images) == (("other/b.jpg",), ("else.jpg",))
    truth["images"] = [{"id": 1, "file_name": "else.jpg"}]
    truth["annotations"] = []
    with pytest.raises(PredictionsError, match="none of the 4 predicted images"):
        run(tmp_path, sample_arrays(), truth)


def test_broken_masks_never_reach_pycocotools(tmp_path: Path) -> None:
    arrays = sample_arrays()
    arrays["masks"][0] = 111
    with pytest.raises(PredictionsError) as caught:
        run(tmp_path, arrays, truth_of(sample_arrays()), "segm")
    assert "masks" in str(caught.value.why)
    assert str(caught.value.hint).startswith("orch validate ")


def test_masks_are_not_looked_at_where_boxes_are_compared(tmp_path: Path) -> None:
    whole, arrays = sample_arrays(), sample_arrays()
    arrays["masks"][0] = 111
    (tmp_path / "whole").mkdir()
    expected = run(tmp_path / "whole", whole, truth_of(sample_arrays()), "bbox")
    assert run(tmp_path, arrays, truth_of(sample_arrays()), "bbox") == expected
    arrays["boxes"][0] = np.nan
    with pytest.raises(PredictionsError):
        run(tmp_path, arrays, truth_of(sample_arrays()), "bbox")


def segmentation(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda annotation: annotation.update(segmentation=value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (segmentation(None), "neither polygons nor run lengths"),
        (segmentation([]), "not a list of polygons"),
        (segmentation([[1, 1, 2, 2]]), "not a list of polygons"),
        (segmentation([[1, 1, 2, 2, 3]]), "not a list of polygons"),
        (segmentation([[1, 1, 2, 2, 3, 1e9]]), "not a list of polygons"),
        (segmentation([[1, 1, 2, 2, 3, float("nan")]]), "not a list of polygons"),
        (segmentation({"size": [40, 60], "counts": [1, 2]}), "do not add up"),
        (segmentation({"size": [40, 60], "counts": [-1, 2401]}), "do not add up"),
        (segmentation({"size": [40, 60], "counts": "4"}), "do not add up"),
        (segmentation({"size": [40, 60], "counts": "ooo"}), "not this encoding"),
        (segmentation({"size": [2, 2], "counts": "4"}), "run lengths of the image's size"),
        (segmentation({"size": [40, 60]}), "no counts"),
        (lambda annotation: annotation.update(bbox=[1, 2, 3]), "bbox or area"),
        (lambda annotation: annotation.update(area="big"), "bbox or area"),
        (lambda annotation: annotation.update(image_id=5), "no image 5"),
        (lambda annotation: annotation.update(category_id=6), "no category 6"),
        (lambda annotation: annotation.update(iscrowd=2), "neither 0 nor 1"),
        (lambda annotation: annotation.update(bbox=[1, 2, -3, 4]), "negative"),
    ],
    ids=range(18),
)
def test_a_wrong_annotation_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str) -> None:
    truth = truth_of(sample_arrays())
    change(truth["annotations"][0])
    with pytest.raises(UsageError, match="annotation 0 of") as caught:
        run(tmp_path, sample_arrays(), truth)
    assert why in str(caught.value.why)


def test_a_crowd_or_not_before_a_wrong_annotation_is_not_taken_for_it(tmp_path: Path) -> None:
    truth = truth_of(sample_arrays())
    truth["annotations"][1]["iscrowd"] = 1
    del truth["annotations"][2]["iscrowd"]
    truth["annotations"][3]["iscrowd"] = 2
    with pytest.raises(UsageError, match="annotation 3 of"):
        run(tmp_path, sample_arrays(), truth)
