"""What a model does not give is said and never counted as a value: masks, scores of images, categories."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.evaluation.agreement import ToleranceAgreement, Tolerances, compare_within_tolerances
from orchestrator.evaluation.coco.categories import find_unpredictable
from orchestrator.evaluation.coco.detections import choose_iou
from orchestrator.evaluation.coco.evaluate import evaluate
from orchestrator.evaluation.compare.compare import CompareOptions, compare_runs
from orchestrator.evaluation.localization.evaluate import describe_image_scores, name_category
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.compare_samples import changed, two_runs
from tests.unit.evaluation.evaluate_samples import random_arrays, random_truth
from tests.unit.predictions.predictions_samples import META, Arrays, sample_arrays, save


def boxes_only(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name not in ("masks", "mask_offsets")}


def without_instances(arrays: Arrays) -> Arrays:
    """The arrays of the images alone, as of a model that found nothing and gives no scores of images."""
    kept = {name: array for name, array in boxes_only(arrays).items() if name not in ("attributes", "image_scores")}
    kept |= {name: kept[name][:0] for name in ("boxes", "classes", "scores")}
    return {**kept, "offsets": np.zeros_like(arrays["offsets"])}


def within_tolerances(first: Arrays, second: Arrays) -> ToleranceAgreement:
    return compare_within_tolerances(Predictions(first), Predictions(second), Tolerances())


def test_predictions_with_nothing_to_compare_are_not_equivalent() -> None:
    empty = without_instances(sample_arrays())
    found = within_tolerances(empty, empty)
    assert [image.image_score_difference for image in found.images] == [None] * 4
    assert not found.is_equal


def test_scores_of_images_alone_are_something_to_compare() -> None:
    arrays = {**without_instances(sample_arrays()), "image_scores": sample_arrays()["image_scores"]}
    assert within_tolerances(arrays, arrays).is_equal
    other = {**arrays, "image_scores": np.array([0.1, np.nan, np.nan, 0.4], np.float32)}
    found = within_tolerances(arrays, other)
    assert not found.is_equal
    assert found.images[1].fault == "only one of the two has a score of the image"


def test_masks_on_one_side_only_are_a_difference_and_none_are_compared_by_boxes() -> None:
    boxes = boxes_only(sample_arrays())
    assert within_tolerances(boxes, boxes).is_equal
    assert within_tolerances(boxes, boxes).as_json()["overlap_of"] == "box"
    assert within_tolerances(sample_arrays(), sample_arrays()).as_json()["overlap_of"] == "mask"
    mixed = within_tolerances(boxes, sample_arrays())
    assert not mixed.is_equal
    assert mixed.images[0].fault == "only one of the two has masks"


def test_a_run_without_masks_among_others_is_named(tmp_path: Path) -> None:
    good, worse, truth = two_runs(tmp_path)
    arrays = Predictions.load(worse)
    save(boxes_only({name: arrays.arrays[name] for name in arrays.arrays}), worse)
    result = compare_runs([good, worse], truth, CompareOptions(resamples=0))
    assert result.options.iou == "bbox"
    assert "compared by boxes: no masks are in worse" in result.notes
    asked = compare_runs([good, worse], truth, CompareOptions(resamples=0, iou="bbox"))
    assert not any("no masks" in note for note in asked.notes)


@pytest.mark.parametrize(("task", "expected"), [("object-detection", "bbox"), ("instance-segmentation", "segm")])
def test_without_instances_the_task_decides_what_is_compared(task: str, expected: str) -> None:
    meta = np.array(json.dumps({**META, "task": task}))
    assert choose_iou([Predictions({**without_instances(sample_arrays()), "meta": meta})], None) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (None, "the highest pixel of each mask"),
        ([np.nan] * 4, "the highest pixel of each mask"),
        ([0.1, 0.2, np.nan, 0.4], "the model"),
        ([0.1, np.nan, np.nan, 0.4], "the model for 2 of 3 images, else the highest pixel"),
    ],
)
def test_scores_of_images_are_the_models_only_where_it_gives_them(scores: list[float] | None, expected: str) -> None:
    """The third image of the sample failed; the fifth true mask has no prediction."""
    arrays = sample_arrays()
    del arrays["image_scores"]
    if scores is not None:
        arrays["image_scores"] = np.array(scores, np.float32)
    assert describe_image_scores(Predictions(arrays), np.array([0, 1, 2, 3, -1])) == expected


def test_the_category_of_a_probability_is_the_first_that_the_model_has() -> None:
    assert name_category(Predictions(changed(sample_arrays(), native={}))) == META["categories"][0]["name"]
    other = META["categories"][1]
    mapped = changed(sample_arrays(), native={"class_map": [other["id"]]})
    assert name_category(Predictions(mapped)) == other["name"]
    assert name_category(Predictions(changed(sample_arrays(), categories=[], native={}))) == "the category"


def test_categories_that_the_class_map_lacks_cannot_be_predicted() -> None:
    truth, arrays = random_truth(7), random_arrays(random_truth(7), 1)
    names = {one["id"]: one["name"] for one in truth["categories"]}
    empty = without_instances(arrays)
    whole = changed(empty, native={"class_map": list(names)})
    part = changed(empty, native={"class_map": [0, 3]})
    assert find_unpredictable(Predictions(whole), names, {}) == {}
    assert find_unpredictable(Predictions(part), names, {}) == {7: "bag", 9: "shoe"}
    assert find_unpredictable(Predictions(part), {0: "shirt", 7: "bag"}, {3: "hat"}) == {7: "bag"}
    assert find_unpredictable(Predictions(changed(empty, categories=[])), names, {}) == {}, "none are named"
    renamed = {70: "bag", 71: "belt", 0: "shirt"}
    assert find_unpredictable(Predictions(whole), renamed, {}) == {71: "belt"}, "paired by name"


def test_categories_that_are_missed_for_want_of_them_are_said_and_left_out_by_align(tmp_path: Path) -> None:
    truth = random_truth(7)
    kept = [one for one in truth["categories"] if one["id"] != 7]
    arrays = random_arrays({**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] != 7]}, 1)
    is_kept = arrays["classes"] != 7
    assert not is_kept.all()
    arrays["classes"][~is_kept] = 3
    first, second = (changed(arrays, model=name, categories=kept, native={}) for name in ("one", "other"))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    bags = sum(one["category_id"] == 7 and not one["iscrowd"] for one in truth["annotations"])
    judged = evaluate(Predictions(first), tmp_path / "truth.json")
    (note,) = [note for note in judged.notes if "cannot predict" in note]
    assert note.startswith(f"one cannot predict bag ({bags}): all annotations of these categories count as missed")
    runs = [save(one, tmp_path / f"{n}.npz") for n, one in enumerate((first, second))]
    plain, aligned = (
        compare_runs(runs, tmp_path / "truth.json", CompareOptions(resamples=0, align=align)) for align in (False, True)
    )
    without = evaluate(Predictions(first), tmp_path / "truth.json", categories=["shirt", "hat", "shoe"])
    assert plain.evaluations[0].ap == judged.ap != without.ap
    assert aligned.evaluations[0].ap == without.ap
    assert any("not all models can predict: bag" in note for note in aligned.notes)
    assert not any("cannot predict" in note for note in aligned.evaluations[0].notes)
